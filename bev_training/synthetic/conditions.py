"""Weather and light of a drive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bev_perception.errors import ConfigError
from bev_training.synthetic.town.town import Color

Weather = Literal['clear', 'overcast', 'haze', 'rain', 'night']
WEATHERS: tuple[Weather, ...] = ('clear', 'overcast', 'haze', 'rain', 'night')


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What decides how a scene looks, besides what stands in it.

    Light is linear; an evenly lit white surface at noon has the value 1.

    Attributes:
        weather: the kind.
        sun_yaw: where the sun (at night: the moon) stands, radians in the map.
        sun_height: its elevation, radians above the horizon.
        sun: its light, RGB; shadows are the lack of it.
        sky: light of the sky from all sides, RGB.
        zenith: colour of the sky overhead.
        horizon: colour of the sky at the horizon, and of haze.
        haze_m: distance at which 63 % of the light is haze.
        exposure: gain of the cameras.
        wetness: 0 dry .. 1 wet: darker ground that reflects the sky.
        contrast: 1 as it is; rain on the lens and in the air lowers it.
        lamps: 0 .. 1, whether street lamps, windows and vehicles' lamps are lit.
        noise: standard deviation of the sensor's noise at mid grey, in 0..255.
    """

    weather: Weather
    sun_yaw: float
    sun_height: float
    sun: Color
    sky: Color
    zenith: Color
    horizon: Color
    haze_m: float
    exposure: float
    wetness: float
    contrast: float
    lamps: float
    noise: float

    @property
    def sun_direction(self) -> tuple[float, float, float]:
        """Unit vector towards the sun, in the map."""
        flat = np.cos(self.sun_height)
        x, y = flat * np.cos(self.sun_yaw), flat * np.sin(self.sun_yaw)
        return float(x), float(y), float(np.sin(self.sun_height))


def check_weather(weather: str) -> None:
    """Check that there is such a weather.

    Raises:
        ConfigError: there is none.
    """
    if weather not in ('any', *WEATHERS):
        raise ConfigError(f'weather is {weather!r}; known are any, {", ".join(WEATHERS)}')


def draw_conditions(rng: np.random.Generator, weather: str = 'any') -> Conditions:
    """Draw the conditions of a drive.

    Args:
        rng: source of chance.
        weather: one of WEATHERS, or 'any' for a random one.

    Raises:
        ConfigError: no such weather.
    """
    check_weather(weather)
    drawn = WEATHERS[int(rng.choice(len(WEATHERS), p=[0.42, 0.2, 0.13, 0.13, 0.12]))]
    kind = drawn if weather == 'any' else next(w for w in WEATHERS if w == weather)
    yaw, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(22, 62))
    warm = float(np.clip((np.degrees(height) - 20) / 30, 0, 1))  # low suns are red
    tint = np.array([1.0, 0.86 + 0.11 * warm, 0.66 + 0.26 * warm]) * rng.uniform(0.97, 1.03, 3)
    blue = np.array([0.24, 0.42, 0.74]) * rng.uniform(0.85, 1.15)
    pale = np.array([0.72, 0.80, 0.90]) * rng.uniform(0.92, 1.06, 3)
    grey = np.array([0.74, 0.77, 0.81]) * rng.uniform(0.85, 1.1)
    values: dict[str, tuple] = {
        # sun, sky, zenith, horizon, haze_m, exposure, wetness, contrast, lamps, noise
        'clear': (0.85 * tint, 0.34 * pale, blue, pale, (500, 1400), (0.9, 1.12), 0.0, 1.0, 0, 2),
        'overcast': (0.10 * tint, 0.78 * grey, 0.9 * grey, grey, (300, 800), (0.9, 1.15),
                     0.0, 0.95, 0, 2.5),
        'haze': (0.40 * tint, 0.52 * pale, 0.9 * pale, pale, (90, 180), (0.9, 1.1),
                 0.0, 0.9, 0, 2.5),
        'rain': (0.04 * tint, 0.55 * grey, 0.72 * grey, 0.8 * grey, (160, 380), (0.95, 1.25),
                 (0.6, 1.0), (0.72, 0.86), 0.5, 4),
        'night': (np.array([0.05, 0.06, 0.09]), np.array([0.035, 0.04, 0.06]),
                  np.array([0.012, 0.016, 0.035]), np.array([0.05, 0.045, 0.05]), (250, 600),
                  (1.5, 2.1), (0.0, 0.5), 0.95, 1.0, 7),
    }  # fmt: skip
    sun, sky, zenith, horizon, haze, exposure, wet, contrast, lamps, noise = values[kind]

    def between(value: object) -> float:
        return float(rng.uniform(*value)) if isinstance(value, tuple) else float(value)  # type: ignore[arg-type]

    def color(value: object) -> Color:
        r, g, b = np.clip(np.asarray(value, float), 0, 4).tolist()
        return r, g, b

    return Conditions(
        weather=kind, sun_yaw=float(yaw), sun_height=float(height), sun=color(sun),
        sky=color(sky), zenith=color(zenith), horizon=color(horizon), haze_m=between(haze),
        exposure=between(exposure), wetness=between(wet), contrast=between(contrast),
        lamps=float(lamps), noise=float(noise),
    )  # fmt: skip
