"""A default belongs to the value that it was declared with: other images, or another optimiser, do not get it by accident."""

import contextlib
import functools

import absl.flags
import pytest

from experiments import methods, near_then_external, out_of_distribution, quickstart
from sslshift.clock import Clock
from sslshift.study import cli
from sslshift.study.declare import Study


@pytest.fixture
def study_of(monkeypatch, capsys):
    """Runs an experiment's command line up to the study that it asks for; returns the study and what was printed."""

    plain = {name: getattr(absl.flags, name) for name in vars(absl.flags) if name.startswith("DEFINE_")}
    names = {kind: define.__name__ for kind, define in cli._DEFINE.items()}

    def run(declared, *arguments, scales=None):
        defined = absl.flags.FlagValues()
        studies = []
        among = {name: functools.partial(define, flag_values=defined) for name, define in plain.items()}
        monkeypatch.setattr(absl.flags, "FLAGS", defined)
        for name, define in among.items():
            monkeypatch.setattr(absl.flags, name, define)
        monkeypatch.setattr(cli, "_DEFINE", {kind: among[name] for kind, name in names.items()})

        @contextlib.contextmanager
        def command_line(folder, stop):
            defined(["command", *arguments])
            yield Clock()

        monkeypatch.setattr(cli, "command_line", command_line)
        cli.run_experiment(declared, lambda study, command, clock, stop: studies.append(study), scales)
        return studies[0], capsys.readouterr().out

    return run


def test_another_downstream_set_does_not_get_the_test_split_of_the_default(study_of):
    study, printed = study_of(quickstart.QUICKSTART, "--downstream=folder:/data/parts")
    assert (study.downstream, study.downstream_test) == ("folder:/data/parts", "")
    assert (
        "--downstream_test: this experiment's default (bundled:fashion_mnist/test) belongs to its own --downstream" in printed
    )
    assert (
        "--sources was not given: encoders are pretrained on this experiment's own sources, clothes = bundled:fashion_mnist@4"
        in printed
    )


def test_an_empty_mixture_is_none_and_a_long_default_is_named_by_its_first_value(study_of):
    study, printed = study_of(quickstart.QUICKSTART, "--mixture=")
    assert (study.mixture, study.sources) == ((), quickstart.QUICKSTART.sources)
    study, printed = study_of(quickstart.QUICKSTART, "--sources=bundled:mnist@4", "--downstream=bundled:mnist")
    assert study.mixture == ()
    assert "@1*0.25 and 9 more) belongs to its own --sources" in printed


def test_nor_its_further_tasks(study_of):
    study, printed = study_of(out_of_distribution.OUT_OF_DISTRIBUTION, "--downstream=folder:/data/parts")
    assert (study.task, study.downstream_test) == ((), "")
    assert "--task: this experiment's default (digits = bundled:mnist; test=bundled:mnist/test)" in printed
    mine = "mine = folder:/data/other"
    study, _ = study_of(out_of_distribution.OUT_OF_DISTRIBUTION, "--downstream=folder:/data/parts", f"--task={mine}")
    assert study.task == (mine,)


def test_nor_those_of_another_scale(study_of):
    scales = {"full": out_of_distribution.FULL}
    study, _ = study_of(
        out_of_distribution.OUT_OF_DISTRIBUTION, "--scale=full", "--downstream=folder:/data/parts", scales=scales
    )
    assert (study.task, study.downstream_test, study.encoder) == ((), "", "resnet50")


def test_other_sources_do_not_get_the_mixtures_of_the_defaults(study_of):
    declared = near_then_external.NEAR_THEN_EXTERNAL
    study, printed = study_of(declared, "--sources=folder:/data/parts@500", "--downstream=folder:/data/parts")
    assert study.mixture == ()
    assert "--mixture: this experiment's default (mixed_equal_n = near:bundled:fashion_mnist" in printed
    study, _ = study_of(declared, "--sources=folder:/data/parts@500", "--mixture=folder:/data/parts@100")
    assert study.mixture == ("folder:/data/parts@100",)
    assert study_of(declared)[0] == declared


def test_a_test_split_alone_is_refused(study_of):
    with pytest.raises(ValueError, match=r"--downstream_test=folder:/x was given without --downstream.*Give both"):
        study_of(quickstart.QUICKSTART, "--downstream_test=folder:/x")
    # Holding out a part of the default is no other data.
    assert study_of(quickstart.QUICKSTART, "--downstream_test=")[0].downstream_test == ""


def test_another_optimiser_does_not_get_the_rates_of_the_default(study_of):
    study, printed = study_of(quickstart.QUICKSTART, "--optimiser=sgd")
    assert (study.learning_rate, study.weight_decay, study.warmup) == (-1.0, -1.0, -1.0)
    assert "--learning_rate: this experiment's default (0.005) belongs to its own --optimiser" in printed
    assert study_of(quickstart.QUICKSTART, "--optimiser=adamw")[0] == quickstart.QUICKSTART
    study, _ = study_of(methods.METHODS, "--optimiser=", "--learning_rate=-1")
    assert "vicreg" not in "".join(study.for_method)
    assert "mae: encoder=vit_nano4; min_crop_scale=0.5; decoder_depth=2" in study.for_method


def test_what_is_given_as_declared_changes_nothing(study_of):
    study, printed = study_of(quickstart.QUICKSTART, "--downstream=bundled:fashion_mnist")
    assert study == quickstart.QUICKSTART
    assert "--downstream_test" not in printed
    study, printed = study_of(Study(out="x"), "--sources=bundled:mnist")
    assert printed == (
        "--downstream was not given: encoders are evaluated on this experiment's own task, bundled:fashion_mnist\n"
    )


def test_an_initial_encoder_does_not_get_the_architecture_and_the_rates_of_the_default(study_of):
    study, printed = study_of(quickstart.QUICKSTART, "--init=mine.safetensors", "--warmup=0.05")
    assert (study.init, study.encoder, study.optimiser) == ("mine.safetensors", "", "")
    assert (study.learning_rate, study.weight_decay, study.warmup) == (-1.0, -1.0, 0.05)
    # New heads are trained from random weights, as the experiment declares them.
    assert (study.head, study.sources) == (quickstart.QUICKSTART.head, quickstart.QUICKSTART.sources)
    assert printed.startswith("--init: this experiment's own --optimiser, --learning_rate and --weight_decay are for training")
    study, _ = study_of(methods.METHODS, "--init=mine.safetensors")
    assert "mae: min_crop_scale=0.5; decoder_depth=2" in study.for_method
    study, _ = study_of(quickstart.QUICKSTART, "--init=mine.safetensors", "--encoder=resnet18")
    assert study.encoder == "resnet18"
