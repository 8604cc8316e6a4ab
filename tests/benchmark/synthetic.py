"""Results that look like an H100's and were never measured, for the pictures; and where the words of a picture are."""

import random
from itertools import combinations

from speed.ceilings import Ceilings
from speed.presets import OURS, PRESETS
from speed.providers import PROVIDERS
from speed.results import Outcome, Results, Timed
from speed.turns import Spread

MACHINE = {"device": "Imagined GPU", "torch": "2.11.0", "triton": "3.6.0", "commit": "0123456789ab", "command": "none"}
CEILING = 800.0
SPEED = {"sdpa_flash": 0.44, "sdpa_cudnn": 0.8, "sdpa_efficient": 0.2, "flex_compiled": 0.58, "flash_attn_4": 0.86}
SPEED |= {"ours": 0.84, "ours_portable": 0.6, "naive": 0.08, "sdpa_math": 0.03}
HOST = {"naive": 48.0, "sdpa_math": 90.0, "sdpa_flash": 18.0, "sdpa_cudnn": 26.0, "sdpa_efficient": 21.0}
HOST |= {"flex_compiled": 130.0, "ours": 62.0, "ours_portable": 55.0, "flash_attn_4": 40.0}
MOST_BYTES = 40 << 30


def spread(median, random_numbers):
    samples = [median * random_numbers.uniform(0.97, 1.05) for _ in range(15)]
    return Spread.of([samples[:5], samples[5:10], samples[10:]])


def share(name, row):
    """Of the ceiling: less for short rows, causal ones and d 64."""
    length = row.N / (row.N + (900 if row.causal else 350))
    return SPEED[name] * length * {64: 0.68, 128: 0.9}.get(row.d, 1.0) * (0.97 if row.causal else 1.0)


def outcome(name, row, host, numbers):
    scores = 2 * row.B * row.Hq * row.N * row.N
    output = 2 * row.B * row.Hq * row.N * row.d
    if name == "naive" and 2 * scores > MOST_BYTES:
        return Outcome(name, "out of memory", "CUDA out of memory.")
    if name == "sdpa_math" and scores > 2 << 28:
        return Outcome(name, "too large", "it is given fewer scores")
    tflops = CEILING * share(name, row)
    ms = spread(row.flops / tflops * 1e-9 + 0.003, numbers)
    peak = output + (4 * row.B * row.Hq * row.N if "naive" not in name and "math" not in name else 2 * scores)
    host_ms = spread(HOST[name] * 1e-3, numbers) if host else None
    rate = row.flops / ms.median * 1e-9
    return Outcome(name, error=0.3, ms=ms, host_ms=host_ms, peak_bytes=peak, tflops=rate, share=rate / CEILING)


def results(*presets, dtypes=()):
    """A run of presets, all by default."""
    numbers = random.Random(0)
    timed = []
    for preset in (PRESETS[name] for name in presets or PRESETS):
        names = [name for name in preset.providers if name in SPEED]
        for row in preset.rows(dtypes):
            timed.append(Timed(preset.name, row, tuple(outcome(n, row, preset.host, numbers) for n in names)))
    labels = {name: PROVIDERS[name].label for name in PROVIDERS if name in SPEED}
    ceilings = Ceilings({"bf16": CEILING, "fp16": 0.97 * CEILING}, 3000.0)
    return Results(MACHINE, {"rounds": 3}, ceilings, labels, OURS, timed=timed)


def words(figure):
    """Every text that is seen, with its box in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in seen]


def words_over_one_another(figure):
    boxes = [(said, box.padded(-1.5)) for said, box in words(figure)]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]
