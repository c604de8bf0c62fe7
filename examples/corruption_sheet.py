"""Every corruption at every severity, on one image: a sheet to look at.

    python examples/corruption_sheet.py --out docs/corruptions.png [--photo FILE]

Without a photo: a test image of CIFAR-10. Rows are corruptions, columns severities 1 to 5.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import robustcore as rc
from robustcore.corruptions import NAMES, ImageFiles, corrupt

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--out", type=Path, default=Path("out/corruptions.png"))
parser.add_argument("--photo", type=Path)
parser.add_argument("--image", type=int, default=12, help="number of the test image")
args = parser.parse_args()
x = rc.load_images(1000)[0][args.image] if args.photo is None else ImageFiles([args.photo])[:1][0]

TILE, STEP, WORDS, HEAD = 96, 99, 100, 24  # pixels
half = -(-len(NAMES) // 2)  # two blocks of rows beside each other
block = WORDS + 5 * STEP
sheet = Image.new("RGB", (2 * block, HEAD + half * STEP), "white")
draw = ImageDraw.Draw(sheet)
draw.font = ImageFont.load_default(14)
for i, name in enumerate(NAMES):
    left, top = i // half * block, HEAD + i % half * STEP
    at = (left + WORDS - 8, top + TILE // 2)
    draw.multiline_text(at, name.replace("_", "\n"), "black", anchor="rm", align="right")
    for severity in range(1, 6):
        made = corrupt(x, name, severity).mul(255).byte().permute(1, 2, 0).numpy()
        corner = left + WORDS + (severity - 1) * STEP
        scaling = Image.Resampling.NEAREST if len(made) < TILE else Image.Resampling.BOX
        sheet.paste(Image.fromarray(made).resize((TILE, TILE), scaling), (corner, top))
        draw.text((corner + TILE // 2, 12), str(severity), "black", anchor="mm")
args.out.parent.mkdir(parents=True, exist_ok=True)
sheet.save(args.out, optimize=True)
print(f"wrote {args.out}")
