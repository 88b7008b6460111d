"""Rules of `bev inspect`. Ids are stable: scripts and documents name them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal['error', 'warning', 'info']
SEVERITIES: tuple[Severity, ...] = ('error', 'warning', 'info')


class Rule(NamedTuple):
    """A rule: how bad it is, what it is called, what it means and what to do."""

    severity: Severity
    title: str
    advice: str


RULES: dict[str, Rule] = {
    # --- recordings: reading
    'BAG001': Rule(
        'error',
        'recording cannot be read',
        'The file is damaged, empty or of another kind. Try `ros2 bag reindex`; otherwise leave '
        'it out.',
    ),
    'BAG002': Rule(
        'warning',
        'messages cannot be read',
        'They are skipped and counted. Many: the file is damaged, or the type has another '
        'definition than the recording says.',
    ),
    'BAG003': Rule(
        'error',
        'topics are not found',
        'Name the topics: --cameras with --image-topic (and --camera-info-topic), or for single '
        'cameras --camera NAME=TOPIC --camera-info NAME=TOPIC; --lidar, --odometry.',
    ),
    'BAG004': Rule(
        'info',
        'only the beginning was read',
        'Numbers are of the first minute (--quick). Leave --quick out for the whole recording.',
    ),
    'BAG005': Rule(
        'error',
        'a sensor sent nothing that can be used',
        'A camera or lidar that is part of the rig has no readable message. Leave it out with '
        '--cameras or --lidar, or repair the driver.',
    ),
    'BAG006': Rule(
        'error',
        'a conversion would stop',
        '`bev convert` ends at this message and writes nothing of the recording; nothing behind '
        'it is counted here either. The reason says what to change.',
    ),
    # --- recordings: time
    'BAG010': Rule(
        'warning',
        'gaps in a sensor',
        'Longer than 3 periods. Frames there lack this sensor. Look for dropped messages: disk, '
        'network, QoS depth of the recorder.',
    ),
    'BAG011': Rule(
        'warning',
        'irregular rate',
        'A tenth of all distances is off by more than 30 % of the period. Stamps may be times of '
        'arrival instead of exposure: check the driver.',
    ),
    'BAG012': Rule(
        'warning',
        'stamps go back',
        'Messages are out of order within one topic. Some is normal over lossy transport; much '
        'means two publishers on one topic.',
    ),
    'BAG013': Rule(
        'warning',
        'duplicate stamps',
        'The driver repeats images or does not advance its stamp; repeated images are dropped.',
    ),
    'BAG014': Rule(
        'warning',
        'header stamps are zero',
        'The time of the recording stands in, which contains the delay of transport. Let the '
        'driver fill in header.stamp.',
    ),
    'BAG015': Rule(
        'warning',
        'header stamps are far from recording time',
        'More than 0.5 s. Clocks of sensor and recorder differ, or stamps have another origin. '
        'Harmless only if all sensors and poses share that clock.',
    ),
    'BAG016': Rule(
        'warning',
        'clock drifts',
        'The least distance from header to recording time wanders by more than 50 ms, so the '
        'sensor clock is not synchronised (PTP, chrony).',
    ),
    'BAG017': Rule(
        'warning',
        'clock jumps',
        'Stamps of a sensor jump by more than 0.5 s against recording time. Frames are not '
        'linked across the jump.',
    ),
    'BAG018': Rule(
        'warning',
        'sensors do not share a clock',
        'Their distances from header to recording time differ by more than 0.2 s. Images are '
        'then joined with poses and points of another moment.',
    ),
    'BAG019': Rule(
        'warning',
        'a sensor is silent at the beginning or the end',
        'For more than 2 s while others send. A driver that starts late or dies: frames there '
        'lack this sensor. Wait for all sensors before recording.',
    ),
    # --- recordings: sets of images
    'BAG020': Rule(
        'error',
        'no frame would be written',
        'Look at the other findings: missing poses, CameraInfo or too few cameras at once '
        '(--min-cameras, --max-spread).',
    ),
    'BAG021': Rule(
        'warning',
        'incomplete sets of images',
        'More than 5 % of the sets lack a camera. They are kept with a mask from --min-cameras '
        'on; find out why the camera drops images.',
    ),
    'BAG022': Rule(
        'warning',
        'images that are in no set',
        'More than 1 % of a camera\'s images. too_wide: use the settings suggested under "sync". '
        'surplus: the camera is faster than the others. late: raise --sync-timeout.',
    ),
    'BAG023': Rule(
        'warning',
        'max_spread is too small for this rig',
        'Whole cycles of the rig are wider than max_spread_s, so images are cut off. Use the '
        'suggested value, here and in the node.',
    ),
    'BAG024': Rule(
        'warning',
        'a camera is mostly absent',
        'It is in fewer than half of the sets. Leave it out with --cameras or repair it.',
    ),
    # --- recordings: poses
    'BAG030': Rule(
        'error',
        'no transform from the vehicle to a sensor',
        'Images of this camera cannot be used. Record /tf_static (transient local), or name the '
        'right --base-frame.',
    ),
    'BAG031': Rule(
        'error',
        'no poses of the vehicle',
        'Neither TF nor an odometry topic connects odom_frame and base_frame. Name '
        "--odometry, the right frames, or --odom-frame '' with --every 0.5s.",
    ),
    'BAG032': Rule(
        'warning',
        'sets without a pose',
        'More than 2 % of the sets lie outside the poses (before the first, after the last, in '
        'a gap). They are left out.',
    ),
    'BAG033': Rule(
        'warning',
        'gaps in the poses',
        'Longer than 0.25 s and 5 times the usual period. Nothing is interpolated across them, so '
        'images and sweeps there have no pose and are left out.',
    ),
    'BAG034': Rule(
        'warning',
        'poses jump',
        'Neighbouring poses imply more than 60 m/s. A localisation that jumps is no odometry: '
        'choose a smooth frame (REP-105 odom, not map).',
    ),
    'BAG035': Rule(
        'info',
        'the vehicle stands',
        'It moves less than 2 m in the whole recording. With --every 2m a frame is left, or two.',
    ),
    'BAG036': Rule(
        'warning',
        'poses are slow',
        'Fewer than 10 per second. Exposure poses are interpolated over more than 0.1 s.',
    ),
    'BAG037': Rule(
        'warning',
        'poses break',
        'Stamps of transforms go back by more than 0.5 s (a bag that was played in a loop, two '
        'publishers), or the pose moves or turns faster than a vehicle can. A new sequence of '
        'frames begins there.',
    ),
    # --- recordings: calibration
    'BAG040': Rule(
        'error',
        'image does not fit its CameraInfo',
        'The aspect ratio differs: the image was cropped and nobody knows where. `bev convert` '
        'stops there, and nothing behind it is counted here. Publish CameraInfo with the roi, or '
        'leave the camera out with --cameras.',
    ),
    'BAG041': Rule(
        'info',
        'images are scaled against their CameraInfo',
        'The same aspect ratio, another size. K is scaled with it. Intended?',
    ),
    'BAG042': Rule(
        'warning',
        'focal lengths differ',
        'fx and fy differ by more than 20 %. Pixels are rarely so far from square: check K.',
    ),
    'BAG043': Rule(
        'warning',
        'principal point is far from the middle',
        'It lies outside the middle half of the image. K belongs to another resolution or crop.',
    ),
    'BAG044': Rule(
        'warning',
        'implausible field of view',
        'Not within 10 to 200 degrees. K belongs to another resolution or lens.',
    ),
    'BAG045': Rule(
        'error',
        'CameraInfo cannot be used',
        'Uncalibrated (K is 0), not finite, or a lens model that is not known. Calibrate, or '
        'publish rectified images (--image-geometry rectified).',
    ),
    'BAG046': Rule(
        'warning',
        'calibration changes during the recording',
        'Each change starts a new epoch. Fine after a recalibration; many mean that two '
        'publishers fight.',
    ),
    'BAG047': Rule(
        'warning',
        'a camera is mounted implausibly',
        'More than 15 m from base_frame or 1 m below it. Millimetres, an inverted transform, or '
        'a base_frame that is not of the vehicle.',
    ),
    'BAG048': Rule(
        'warning',
        'two cameras are in the same place',
        'Equal extrinsics. A copied entry in the URDF or calibration file.',
    ),
    'BAG049': Rule(
        'warning',
        'a camera looks up or straight down',
        'The image frame is a body frame (x forward) instead of an optical frame (z forward, x '
        'right, y down). Set frame_id of the images to the ..._optical_frame.',
    ),
    # --- recordings: content
    'BAG050': Rule(
        'warning',
        'damaged images',
        'Unknown encoding, wrong size or truncated. They are left out.',
    ),
    'BAG051': Rule(
        'warning',
        'image size changes',
        'Images of one camera have several sizes. Networks see another scale.',
    ),
    'BAG052': Rule(
        'warning',
        'lidar sweeps are empty or damaged',
        'No finite point, or a layout that cannot be read.',
    ),
    'BAG053': Rule(
        'info',
        'lidar has no ring or no time per point',
        'Needed only for range images and for correcting the motion within a sweep.',
    ),
    'BAG054': Rule(
        'warning',
        'video packets without a picture',
        'Lost or damaged packets, and all that follow them until the next key picture. Record '
        'with a reliable QoS and a key picture at least every second.',
    ),
    'BAG055': Rule(
        'warning',
        'lidar sweeps that are odd',
        'More than 1 %. Repeated ones and those that come after their frame are left out; '
        'columns that a sweep lacks are NaN. Look at driver, recorder and --tf-timeout.',
    ),
    'BAG056': Rule(
        'info',
        'frames without lidar',
        'More than 10 % have no sweep of some lidar within 0.25 s. Objectives that need points '
        'skip them.',
    ),
    # --- drives
    'DRV001': Rule(
        'error',
        'drive cannot be read',
        'No manifest (unfinished: run the same `bev convert` again), another format or version, '
        'or a damaged file.',
    ),
    'DRV002': Rule(
        'error',
        'files are not what the manifest says',
        'Missing, of another size or hash. Copy the drive again; or remove its folder, then run '
        'the same `bev convert`, which keeps what is there otherwise.',
    ),
    'DRV003': Rule(
        'warning',
        'files that do not belong to the drive',
        'Harmless, but nothing reads them: left over by a copy or by hand.',
    ),
    'DRV004': Rule(
        'error',
        'images cannot be decoded',
        'The recording held damaged images (JPEG passes through), or the shard was changed.',
    ),
    'DRV005': Rule(
        'error',
        'lidar sweeps are damaged',
        'The shard does not hold what the index says. Remove the folder of the drive, then run '
        'the same `bev convert`.',
    ),
    'DRV006': Rule(
        'info',
        'content was not checked',
        'Only names and sizes (--quick). Leave --quick out to check hashes and pictures.',
    ),
    'DRV010': Rule(
        'error',
        'pose is not rigid',
        'Not finite, or the rotation is none.',
    ),
    'DRV011': Rule(
        'warning',
        'implausible speed',
        'Neighbouring frames imply more than 60 m/s. Poses jump or stamps are wrong.',
    ),
    'DRV012': Rule(
        'warning',
        'implausible height change',
        'More than 30 % grade between neighbours that are at least a metre of height apart.',
    ),
    'DRV013': Rule(
        'info',
        'no poses of the vehicle',
        'Converted without odom_frame: no use for temporal training.',
    ),
    'DRV014': Rule(
        'warning',
        'implausible calibration',
        'See BAG042 to BAG049.',
    ),
    'DRV020': Rule(
        'warning',
        'a camera never sees a lidar point',
        'Extrinsics, frames or stamps of camera or lidar are wrong, or the lidar does not reach '
        'there. Look at the projected points in the report.',
    ),
    'DRV021': Rule(
        'warning',
        'hardly any lidar point is in an image',
        'Less than 1 % is seen by any camera: the two do not share a frame.',
    ),
    'DRV022': Rule(
        'info',
        'frames without lidar',
        'More than 10 % have no sweep. Objectives that need points skip them.',
    ),
    'DRV030': Rule(
        'warning',
        'time gaps between frames',
        'The recording has a hole there; frames are not linked across it.',
    ),
    'DRV031': Rule(
        'info',
        'several calibrations',
        'The drive has more than one epoch. Fine after a recalibration.',
    ),
    'DRV032': Rule(
        'warning',
        'frames lack a camera',
        'More than 10 % of the frames have no image of it.',
    ),
    'DRV033': Rule(
        'error',
        'frames are out of order',
        'Stamps do not increase, or links do not lead to neighbours.',
    ),
    'DRV034': Rule(
        'warning',
        'drive has no frame',
        'Nothing to train on. Look at the counts in the manifest.',
    ),
}


def rules_table() -> str:
    """Return the rules as a Markdown table, as the documentation has it."""
    rows = [f'| `{name}` | {r.severity} | {r.title} | {r.advice} |' for name, r in RULES.items()]
    return '\n'.join(['| rule | severity | finds | means |', '|---|---|---|---|', *rows]) + '\n'
