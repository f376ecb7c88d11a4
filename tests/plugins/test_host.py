"""Plugins that work, that are broken, that collide, that misspell, that are blocked."""

from __future__ import annotations

import threading

import pytest
from torch import nn

from devinterp import hookspecs, plugins
from devinterp.errors import InvalidInputError, PluginError, PluginWarning
from devinterp.plugins.host import HOOKS
from devinterp.types import Command, ModelAdapter
from support.installed import Install, adapter, analysis, plugin

BROKEN = "raise RuntimeError('no such luck')\n"


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Load these distributions only."""
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", ",".join(names))


def test_the_host_knows_every_hook() -> None:
    assert sorted(HOOKS) == sorted(name for name in vars(hookspecs) if name.startswith("devinterp_"))


def test_builtins_come_through_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVINTERP_STRICT_PLUGINS", "1")
    assert {"llc", "bif", "susceptibilities"} <= set(plugins.analyses())
    assert {"sgld", "rmsprop_sgld"} <= set(plugins.kernels())
    assert {"huggingface", "torch"} <= set(plugins.adapters())
    provider = plugins.provider(plugins.analyses()["llc"])
    assert provider is not None
    assert provider.distribution == "devinterp"


def test_an_analysis_of_a_stranger(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("some-plugin", "1.2", {"some_plugin": analysis("mean")})
    only(monkeypatch, "some-plugin")
    assert list(plugins.analyses()) == ["mean"]
    assert str(plugins.provider(plugins.analyses()["mean"])) == "some-plugin 1.2"
    [row] = [row for row in plugins.listing() if row.provider.distribution == "some-plugin"]
    assert row.provides == {"analyses": ("mean",)}
    assert row.status == plugins.LOADED


def test_a_plot_of_a_stranger(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugin('Plot(name="curve", draw=mean_loss, requires=("trace/loss",))', hook="devinterp_plots")
    install("plot-plugin", "1.0", {"plot_plugin": source})
    only(monkeypatch, "plot-plugin")
    assert list(plugins.plots()) == ["curve"]


def test_a_kernel_of_a_stranger(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugin('Kernel(name="hmc", build=mean_loss, aliases=("hybrid",))', hook="devinterp_kernels")
    install("kernel-plugin", "1.0", {"kernel_plugin": source})
    only(monkeypatch, "kernel-plugin")
    assert plugins.kernel("hybrid") is plugins.kernel("hmc") is plugins.kernels()["hmc"]
    with pytest.raises(InvalidInputError) as caught:
        plugins.kernel("hnc")
    assert str(caught.value) == (
        "`sampling_method` (='hnc') is not installed; did you mean 'hmc'? "
        "Installed: 'hmc' (or 'hybrid', from kernel-plugin 1.0)."
    )


def test_a_recorder_of_a_stranger(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugin('Recorder(name="mine", build=mean_loss)', hook="devinterp_recorders")
    install("recorder-plugin", "1.0", {"recorder_plugin": source})
    only(monkeypatch, "recorder-plugin")
    assert plugins.recorder("mine") is plugins.recorders()["mine"]
    assert str(plugins.provider(plugins.recorder("mine"))) == "recorder-plugin 1.0"
    with pytest.raises(InvalidInputError, match="`recorders` .='mind'. is not installed; did you mean 'mine'"):
        plugins.recorder("mind")


def test_an_adapter_of_a_stranger(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("adapter-plugin", "1.0", {"adapter_plugin": adapter("mine")})
    only(monkeypatch, "adapter-plugin")
    assert plugins.adapter_for(nn.Linear(1, 1)) is plugins.adapters()["mine"]


def test_a_command_of_a_stranger(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugin('Command("greet", "no_such_module:greet", "Say hello.")', hook="devinterp_commands")
    install("command-plugin", "1.0", {"command_plugin": source})
    only(monkeypatch, "command-plugin")
    assert [command.summary for command in plugins.commands().values()] == ["Say hello."]  # and nothing is imported
    assert str(plugins.provider(plugins.commands()["greet"])) == "command-plugin 1.0"
    [row] = [row for row in plugins.listing() if row.provider.distribution == "command-plugin"]
    assert row.provides == {"commands": ("greet",)}


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("not-a-name", "a:b", "command name 'not-a-name' must be a public Python identifier"),
        ("name", "a.b", r"`function` \(='a.b'\) of the command 'name' must be an import path such as"),
        ("name", "a:b.c", "must be an import path"),
    ],
)
def test_a_command_that_cannot_be(name: str, function: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Command(name, function, "summary")


def test_fallback_adapters_are_asked_last(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("a-fallback", "1.0", {"a_fallback": adapter("any", fallback=True)})
    install("b-special", "1.0", {"b_special": adapter("linear", matches="type(model).__name__ == 'Linear'")})
    only(monkeypatch, "a-fallback", "b-special")
    assert plugins.adapter_for(nn.Linear(1, 1)).name == "linear"
    assert plugins.adapter_for(nn.ReLU()).name == "any"
    assert plugins.adapter_for(nn.Linear(1, 1), "any").name == "any"


def test_none_and_several_adapters_are_listed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("a-first", "1.0", {"a_first": adapter("first", matches="type(model).__name__ == 'Linear'")})
    install("b-second", "2.0", {"b_second": adapter("second", matches="type(model).__name__ == 'Linear'")})
    only(monkeypatch, "a-first", "b-second")
    with pytest.raises(
        InvalidInputError, match=r"several adapters match Linear: 'first' \(from a-first 1.0\), 'second'"
    ):
        plugins.adapter_for(nn.Linear(1, 1))
    with pytest.raises(InvalidInputError, match=r"no adapter matches ReLU; installed: 'first' \(from a-first 1.0\)"):
        plugins.adapter_for(nn.ReLU())
    with pytest.raises(InvalidInputError, match="did you mean 'second'"):
        plugins.adapter_for(nn.ReLU(), "secund")


def test_an_adapter_of_the_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ModelAdapter):
        name = "mine"

        def matches(self, model: nn.Module) -> bool:
            return False

        def logits(self, model, input_ids, attention_mask=None):  # type: ignore[no-untyped-def]
            return model(input_ids)

    mine = Mine()
    assert plugins.adapter_for(nn.ReLU(), mine) is mine
    assert plugins.provider(mine) is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (BROKEN, "RuntimeError: no such luck"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def devinterp_analyses():\n    return []\n", "`devinterp_analyses` is not marked as a hook"),
        ("def devinterp_analysis():\n    return []\n", "`devinterp_analysis` is not marked as a hook"),
        ("x = 1\n", "implements none of the hooks devinterp_analyses"),
        (
            "from devinterp import hookimpl\n@hookimpl\ndef devinterp_analyses(tree):\n    return []\n",
            "declared in the hookimpl",
        ),
        (
            "from devinterp import hookimpl\n@hookimpl\ndef devinterp_analyses():\n    raise KeyError('oh')\n",
            "hook `devinterp_analyses` failed: KeyError",
        ),
    ],
)
def test_a_broken_plugin_is_left_out_and_the_rest_work(
    install: Install, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    install("a-broken", "0.3", {"a_broken": source})
    install("b-working", "1.0", {"b_working": analysis("mean")})
    only(monkeypatch, "a-broken", "b-working")
    with pytest.warns(PluginWarning, match=r"plugin 'a_broken' \(a_broken\) of a-broken 0\.3") as caught:
        assert list(plugins.analyses()) == ["mean"]
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    assert list(plugins.analyses()) == ["mean"]  # and no second warning, which would be an error here
    rows = {row.provider.distribution: row for row in plugins.listing()}
    assert (rows["a-broken"].status, rows["b-working"].status) == (plugins.BROKEN, plugins.LOADED)
    assert rows["a-broken"].error

    plugins.reset()
    monkeypatch.setenv("DEVINTERP_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"a-broken 0\.3"):
        plugins.analyses()


def test_a_misspelt_hook_is_an_error(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("typo-plugin", "0.1", {"typo_plugin": plugin(hook="devinterp_analysis")})
    install("b-working", "1.0", {"b_working": analysis("mean")})
    only(monkeypatch, "typo-plugin", "b-working")
    with pytest.raises(PluginError) as caught:
        plugins.analyses()
    assert str(caught.value) == (
        "plugin 'typo_plugin' (typo_plugin) of typo-plugin 0.1 implements `devinterp_analysis`, which is no hook; the "
        "hooks are devinterp_analyses, devinterp_plots, devinterp_kernels, devinterp_model_adapters, devinterp_recorders, "
        "devinterp_commands. To go on without it, set DEVINTERP_LOAD_PLUGINS=-typo-plugin."
    )
    [row] = [row for row in plugins.listing() if row.provider.distribution == "typo-plugin"]
    assert row.status == plugins.BROKEN
    assert "devinterp_analysis" in str(row.error)

    plugins.reset()
    only(monkeypatch, "b-working", "-typo-plugin")
    assert list(plugins.analyses()) == ["mean"]


@pytest.mark.parametrize(
    ("first", "second", "hook", "kind"),
    [
        ("Analysis('same', mean_loss)", "Analysis('same', mean_loss)", "devinterp_analyses", "analyses"),
        ("Plot('same', mean_loss)", "Plot('same', mean_loss)", "devinterp_plots", "plots"),
        ("Kernel('same', mean_loss)", "Kernel('other', mean_loss, ('same',))", "devinterp_kernels", "kernels"),
        ("Kernel('one', mean_loss, ('same',))", "Kernel('same', mean_loss)", "devinterp_kernels", "kernels"),
        ("Command('same', 'a:b', '')", "Command('same', 'c:d', '')", "devinterp_commands", "commands"),
    ],
)
def test_duplicates_name_both_distributions(
    install: Install, monkeypatch: pytest.MonkeyPatch, first: str, second: str, hook: str, kind: str
) -> None:
    install("a-plugin", "1.0", {"a_plugin": plugin(first, hook=hook)})
    install("b-plugin", "2.0", {"b_plugin": plugin(second, hook=hook)})
    only(monkeypatch, "a-plugin", "b-plugin")
    with pytest.raises(PluginError, match=rf"two {kind} are named 'same'.* a-plugin 1\.0 .* b-plugin 2\.0 .*"):
        getattr(plugins, kind)()
    assert len([row for row in plugins.listing() if row.status == plugins.LOADED]) == 2

    plugins.reset()
    only(monkeypatch, "a-plugin", "b-plugin", "-a-plugin:a_plugin")  # the remedy that the message gives
    assert len(getattr(plugins, kind)()) == 1


def test_duplicate_adapters(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("a-plugin", "1.0", {"a_plugin": adapter("same")})
    install("b-plugin", "2.0", {"b_plugin": adapter("same")})
    only(monkeypatch, "a-plugin", "b-plugin")
    with pytest.raises(PluginError, match=r"two adapters are named 'same'.* a-plugin 1\.0 .* b-plugin 2\.0"):
        plugins.adapters()


def test_an_analysis_and_a_command_of_one_name(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugin("Command('same', 'a:b', '')", hook="devinterp_commands")
    install("a-plugin", "1.0", {"a_plugin": source})
    install("b-plugin", "2.0", {"b_plugin": analysis("same")})
    only(monkeypatch, "a-plugin", "b-plugin")
    message = r"an analysis and a command are named 'same': one of b-plugin 2\.0 .* and one of a-plugin 1\.0"
    with pytest.raises(PluginError, match=message):
        plugins.commands()
    assert list(plugins.analyses()) == ["same"]  # the tree has no commands

    plugins.reset()
    only(monkeypatch, "a-plugin", "b-plugin", "-b-plugin:b_plugin")  # the remedy that the message gives
    assert list(plugins.commands()) == ["same"]


def test_an_analysis_that_is_no_command_leaves_its_name_to_one(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("a-plugin", "1.0", {"a_plugin": plugin("Command('same', 'a:b', '')", hook="devinterp_commands")})
    install("b-plugin", "2.0", {"b_plugin": plugin("Analysis('same', mean_loss, has_command=False)")})
    only(monkeypatch, "a-plugin", "b-plugin")
    assert list(plugins.commands()) == list(plugins.analyses()) == ["same"]


@pytest.mark.parametrize(
    ("source", "kind", "owner"),
    [
        (analysis("plot"), "analyses", "an analysis named 'plot', which is where plots are, `tree.slt.plot`"),
        (analysis("sample"), "analyses", r"an analysis named 'sample', which is the command .* of devinterp \d"),
        (
            plugin("Command('sample', 'a:b', '')", hook="devinterp_commands"),
            "commands",
            r"a command named 'sample', which is the command `devinterp sample` of devinterp \d",
        ),
    ],
)
def test_a_name_of_the_accessor_or_the_command_line_is_refused(
    install: Install, monkeypatch: pytest.MonkeyPatch, source: str, kind: str, owner: str
) -> None:
    install("a-plugin", "1.0", {"a_plugin": source})
    only(monkeypatch, "a-plugin")
    with pytest.raises(PluginError, match=rf"a-plugin 1\.0.* has {owner}.* another name"):
        getattr(plugins, kind)()


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (
            "Analysis('mean', mean_loss)",
            r"must return a list of Analysis or Check objects, got Analysis Analysis\(name='mean'",
        ),
        ("None", "got NoneType None"),
        ("'mean'", "got str 'mean'"),
        ("[mean_loss]", "got a list with function <function mean_loss"),
        ("[Kernel('mean', mean_loss)]", "got a list with Kernel"),
        ("[Analysis]", "got a list with the class Analysis itself"),
    ],
)
def test_a_wrong_result_names_the_culprit(
    install: Install, monkeypatch: pytest.MonkeyPatch, result: str, got: str
) -> None:
    install("odd-plugin", "0.1", {"odd_plugin": plugin().replace("return []", f"return {result}")})
    only(monkeypatch, "odd-plugin")
    with pytest.raises(
        PluginError, match=rf"`devinterp_analyses` of plugin 'odd_plugin' .* of odd-plugin 0\.1 .*{got}"
    ):
        plugins.analyses()


def test_kinds_do_not_trouble_each_other(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("a-plugin", "1.0", {"a_plugin": plugin("None", hook="devinterp_kernels")})
    install("b-plugin", "1.0", {"b_plugin": analysis("mean")})
    only(monkeypatch, "a-plugin", "b-plugin")
    assert list(plugins.analyses()) == ["mean"]
    with pytest.raises(PluginError, match="a-plugin"):
        plugins.kernels()


def test_one_distribution_with_several_entry_points(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("two-plugins", "1.0", {"two_a": analysis("a"), "two_b": analysis("b")})
    for listed, names in {
        "two-plugins": ["a", "b"],
        "Two_Plugins": ["a", "b"],  # packaging tools take these for one name
        "two_b": ["b"],
        "two-plugins:two_a": ["a"],
        "two-plugins, -two_a": ["b"],
    }.items():
        only(monkeypatch, listed)
        plugins.reset()
        assert list(plugins.analyses()) == names
        blocked = {row.provider.entry_point for row in plugins.listing() if row.status == plugins.BLOCKED}
        assert "llc" in blocked
        assert not {f"two_{name}" for name in names} & blocked


def test_everything_but_one(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("a-broken", "1.0", {"a_broken": BROKEN})
    install("b-working", "1.0", {"b_working": analysis("mean")})
    only(monkeypatch, "-a-broken", "-not-installed-here")
    assert {"mean", "llc"} <= set(plugins.analyses())


def test_a_builtin_can_be_replaced(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("my-llc", "1.0", {"my_llc": analysis("llc")})
    with pytest.raises(PluginError, match=r"two analyses are named 'llc': one of devinterp .* and one of my-llc 1\.0"):
        plugins.analyses()
    plugins.reset()
    only(monkeypatch, "-devinterp:llc")
    assert str(plugins.provider(plugins.analyses()["llc"])) == "my-llc 1.0"


def test_asking_for_a_plugin_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "devinterp", "no-such-plugin")
    with pytest.raises(
        PluginError,
        match=r"DEVINTERP_LOAD_PLUGINS names 'no-such-plugin', .* Installed: devinterp:baoab, devinterp:bif",
    ):
        plugins.analyses()


def test_a_plugin_that_asks_for_plugins_while_it_is_imported(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from devinterp import plugins\nplugins.analyses()\n"
    install("self-seeking", "1.0", {"self_seeking": source})
    only(monkeypatch, "self-seeking")
    with pytest.warns(PluginWarning, match="while they are being loaded"):
        assert plugins.analyses() == {}


def test_one_module_by_two_entry_points(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("a-plugin", "1.0", {"shared_module": analysis("mean")})
    install("b-plugin", "1.0", {"shared_module": analysis("mean")})
    only(monkeypatch, "a-plugin", "b-plugin")
    with pytest.warns(PluginWarning, match="shared_module is loaded already, by entry point 'a-plugin:shared_module'"):
        assert list(plugins.analyses()) == ["mean"]


def test_threads_get_the_same_objects(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import time\ntime.sleep(0.2)\n" + analysis("mean")
    install("slow-plugin", "1.0", {"slow_plugin": source})
    only(monkeypatch, "slow-plugin")
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(plugins.analyses()["mean"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({id(each) for each in results}) == 1


def test_what_a_caller_does_to_the_result_stays_there(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("some-plugin", "1.0", {"some_plugin": analysis("mean")})
    only(monkeypatch, "some-plugin")
    plugins.analyses().clear()
    assert list(plugins.analyses()) == ["mean"]
