"""How fluid a page of 10,000 tokens is: milliseconds from one frame to the next, doing nothing and in use."""

from __future__ import annotations

import pytest

from devinterp.testing import synthetic_tree
from support.browser import start_browser

pytest.importorskip("devinterp_view", reason="devinterp-view is not installed")

from devinterp_view.budget import Limits
from devinterp_view.report import render

FRAMES = """
const done = arguments[arguments.length - 1], kind = arguments[0], times = [];
const tokens = [...document.querySelectorAll('.t')], layer = document.getElementById('layer');
document.getElementById('tokens').scrollIntoView();
const frame = (time) => {
  const n = times.push(time);
  if (kind === 'scrolling') scrollBy(0, 60);
  if (kind === 'pointing') tokens[n * 7].dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
  if (kind === 'choosing') tokens[n * 7].click();
  if (kind === 'changing colours' && n % 2) {
    layer.value = layer.value === 'influence' ? '0' : 'influence';
    layer.dispatchEvent(new Event('change'));
  }
  if (n < 150) return requestAnimationFrame(frame);
  const gaps = times.slice(1).map((each, i) => each - times[i]).sort((a, b) => a - b);
  done([gaps[gaps.length >> 1], gaps[Math.floor(0.95 * gaps.length)]]);
};
requestAnimationFrame(frame);
"""

browser = pytest.fixture(start_browser)


class Words:
    def decode(self, ids):
        return "".join(f" word{each}" for each in ids)


@pytest.mark.benchmark
def test_ten_thousand_tokens_stay_fluid(browser, tmp_path):
    tree = synthetic_tree(num_draws=12, num_chains=2, observables={"a": (50, 200)})
    limits = Limits(passages=50, tokens=10_000, candidates=50, top_k=3)
    path = tmp_path / "page.html"
    path.write_text(render(tree, tokenizer=Words(), limits=limits), encoding="utf-8")
    browser.set_script_timeout(60)
    browser.get(path.as_uri())
    assert browser.execute_script("return document.querySelectorAll('.t').length") == 10_000
    kinds = ("idle", "scrolling", "pointing", "choosing", "changing colours")
    measured = {kind: browser.execute_async_script(FRAMES, kind) for kind in kinds}
    for kind, (half, most) in measured.items():
        print(f"{kind}: half of the frames within {half:.1f} ms, 95 % within {most:.1f} ms")
    # The budget: in use no more than three times the pace of a page at rest for half of the frames.
    assert all(half <= 3 * measured["idle"][0] for half, _ in measured.values())
