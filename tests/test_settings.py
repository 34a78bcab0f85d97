"""Settings are declared once: every surface has the same names, bounds, defaults and refusals."""

import argparse
import ast
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from personalive.cli.arguments import add_settings, read_settings
from personalive.cli.main import build_parser
from personalive.config import STEP_CHOICES
from personalive.errors import InputError
from personalive.live.core.parameters import Changes, LoadParameters, Parameters
from personalive.live.http.schemas import LoadRequest
from personalive.live.http.settings import PARAMETERS_SCHEMA, ParameterChanges
from personalive.live.options import IceServer, ServeOptions
from personalive.loading import ModelChoice
from personalive.settings import AnimateOptions, RequestOptions, Settings, Surface, setting
from personalive.settings.animation import EVERYWHERE
from personalive.types import AccelerationName, AttentionName, QuantizeName
from scripts.write_settings import cog_input, live, predictor, readme, scale

ROOT = Path(__file__).parents[1]
MODELS: list[type[Settings]] = [
    AnimateOptions,
    RequestOptions,
    ModelChoice,
    ServeOptions,
    Parameters,
    Changes,
    LoadParameters,
]
LIMITS = [
    ("seed", [0, 2**32 - 1], [-1, 2**32]),
    ("keyframe_threshold", [0.0, 1000.0], [-0.01, 1000.01]),
    ("motion_strength", [0.0, 2.0], [-0.01, 2.01]),
    ("pose_strength", [0.0, 2.0], [-0.01, 2.01]),
    ("expression_strength", [0.0, 2.0], [-0.01, 2.01]),
    ("smooth", [0.0, 1.0], [-0.01, 1.01]),
    ("fps", [1.0, 120.0], [0.99, 120.01]),
    ("width", [256, 1024], [192, 300, 1088]),
    ("height", [256, 1024], [192, 300, 1088]),
    ("steps", [4, 16], [0, 2, 20]),
]


def surfaces_of(name):
    """Functions that take a value as a surface does, and give what the program then uses."""

    def command(value):
        options = build_parser().parse_args(["animate", f"--{name}", str(value)])
        return getattr(read_settings(options, AnimateOptions), name)

    def session(value):
        return getattr(Parameters().updated({name: value}), name)

    def request(value):
        return TypeAdapter(ParameterChanges).validate_json(json.dumps({name: value}))[name]

    def load(value):
        body = json.dumps({"load_params": {name: value}})
        return getattr(LoadRequest.model_validate_json(body).load_params, name)

    found = {"Python": lambda value: getattr(AnimateOptions(**{name: value}), name), "command": command}
    if name in Parameters.model_fields:
        found |= {"session": session, "request": request}
    if name in LoadParameters.model_fields:
        found["load"] = load
    return found


@pytest.mark.parametrize(("name", "allowed", "refused"), LIMITS)
def test_limits_are_the_same_everywhere(name, allowed, refused):
    for surface, take in surfaces_of(name).items():
        for value in allowed:
            assert take(value) == value, surface
        for value in refused:
            with pytest.raises((InputError, ValidationError), match=name) as error:
                take(value)
            assert "Input should" not in str(error.value), f"{surface}: pydantic's words"
    cog = cog_inputs()[name]
    if "choices" in cog:
        assert set(allowed) <= set(cog["choices"]) and not set(refused) & set(cog["choices"])
    else:
        assert (cog["ge"], cog["le"]) == tuple(allowed)
    if name in Parameters.model_fields:
        shown = PARAMETERS_SCHEMA["properties"][name]
        assert [shown["minimum"], shown["maximum"]] == allowed


def cog_inputs() -> dict[str, Any]:
    """The inputs of `predict`, read as `cog build` does: without running it, so that every argument is a literal."""
    (predictor_class,) = (
        node
        for node in ast.parse((ROOT / "predict.py").read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Predictor"
    )
    (predict,) = (node for node in predictor_class.body if isinstance(node, ast.FunctionDef) and node.name == "predict")
    names = [argument.arg for argument in predict.args.args[1:]]
    defaults = [default for default in predict.args.defaults if isinstance(default, ast.Call)]
    calls = zip(names, defaults, strict=True)
    return {name: {each.arg: ast.literal_eval(each.value) for each in call.keywords} for name, call in calls}


def test_what_is_written_is_written():
    """After a change of settings: python -m scripts.write_settings."""
    for path, written in (
        ("README.md", readme),
        ("docs/live.md", live),
        ("docs/scale.md", scale),
        ("predict.py", predictor),
    ):
        text = (ROOT / path).read_text()
        assert written(text) == text, f"{path}: python -m scripts.write_settings"


def test_cogs_inputs_are_the_settings_of_http_with_their_defaults():
    found = cog_inputs()
    assert found.pop("ref_image") and found.pop("driving_video")
    assert RequestOptions.from_inputs({name: value["default"] for name, value in found.items()}, Surface.HTTP) == (
        RequestOptions()
    )
    expected = {f"no_{each.name}" if each.about.off else each.name for each in RequestOptions.declared(Surface.HTTP)}
    assert set(found) == expected
    assert RequestOptions.from_inputs({"no_audio": True, "self": None}, Surface.HTTP).audio is False


def test_nothing_that_is_a_path_comes_from_http_or_a_session():
    for model in MODELS:
        for each in model.declared():
            if each.kind is Path:
                assert not each.about.on & (Surface.HTTP | Surface.LIVE), each.name


def test_a_session_has_exactly_what_is_declared_for_it():
    live = {each.name for each in AnimateOptions.declared(Surface.LIVE)}
    own = {"paused", "hidden", "muted", "mirror", "fps", "latency", "recentre", "background", "background_colour"}
    assert {each.name for each in Parameters.declared()} == {*live, *own}
    assert Parameters.declared() == Parameters.declared(Surface.LIVE)
    assert set(PARAMETERS_SCHEMA["properties"]) == {each.name for each in Changes.declared()}


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_is_described(model):
    for each in model.declared():
        assert re.fullmatch(
            r"[^.]*[^. ]", re.sub(r"127\.0\.0\.1|0\.0\.0\.0|\.safetensors|\.motion", "", each.about.description)
        )
        assert each.default is not None or each.is_optional, each.name


@pytest.mark.parametrize(("verb", "models"), [("animate", [AnimateOptions, ModelChoice]), ("doctor", [ModelChoice])])
def test_the_command_without_flags_has_the_models_defaults(verb, models):
    options = build_parser().parse_args([verb])
    assert [read_settings(options, model) for model in models] == [model() for model in models]


def test_the_server_without_flags_has_the_models_defaults():
    assert read_settings(build_parser().parse_args(["serve"]), ServeOptions) == ServeOptions()


def test_flags_become_settings():
    flags = ["--port", "80", "--token", "a-long-secret", "--token", "another-secret", "--ice_server", "stun:x:1"]
    flags += ["--allowed_host", "a.example", "--idle_seconds", "5", "--low_memory", "--model", "demo"]
    options = build_parser().parse_args(["serve", *flags])
    model = read_settings(options, ModelChoice)
    settings = read_settings(options, ServeOptions, model=model)
    assert settings.tokens == ("a-long-secret", "another-secret") and settings.ice_servers == (IceServer("stun:x:1"),)
    assert settings.allowed_hosts == ("a.example",) and settings.idle_seconds == 5
    assert settings.model.low_memory and settings.model.model == "demo"
    with pytest.raises(InputError, match="ICE server"):
        read_settings(build_parser().parse_args(["serve", "--ice_server", "http://x"]), ServeOptions)


def test_the_engine_has_the_choices_that_are_declared():
    choices = {each.name: each.choices for model in (AnimateOptions, ModelChoice) for each in model.declared()}
    assert choices["steps"] == STEP_CHOICES
    assert choices["attention"] == get_args(AttentionName)
    assert choices["accelerate"] == get_args(AccelerationName)
    assert choices["quantize"] == get_args(QuantizeName)


def test_a_new_setting_is_one_declaration():
    class More(AnimateOptions):
        glow: float = setting(0.5, "How much it glows", on=EVERYWHERE, group="picture", low=0, high=3, step=0.5)
        sparkle: bool = setting(True, "Sparkle", off="Do not sparkle", on=EVERYWHERE, group="picture")

    parser = argparse.ArgumentParser()
    add_settings(parser, More)
    assert "How much it glows (from 0 to 3; default: 0.5)" in " ".join(parser.format_help().split())
    given = read_settings(parser.parse_args(["--glow", "2.5", "--no_sparkle"]), More)
    assert (given.glow, given.sparkle) == (2.5, False)
    assert "glow is 4.0: it must be a number from 0 to 3" in refusal(parser.parse_args(["--glow", "4"]), More)
    glow, sparkle = ("\n".join(cog_input(each)) for each in More.declared(Surface.HTTP)[-2:])
    assert "glow: float" in glow and "ge=0" in glow and "le=3" in glow and "default=0.5" in glow
    assert "no_sparkle: bool" in sparkle and "default=False" in sparkle
    shown = More.model_json_schema()["properties"]["glow"]
    assert (shown["minimum"], shown["maximum"], shown["step"], shown["default"]) == (0, 3, 0.5, 0.5)


def refusal(options, model):
    with pytest.raises(InputError) as error:
        read_settings(options, model)
    return str(error.value)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.fractions(),
    st.text(max_size=100),
    st.binary(max_size=10),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.sampled_from([10**400, -(10**5000), b"", object(), int, Path("."), "auto", 512, 4]),
)


@given(name=st.sampled_from([each.name for each in AnimateOptions.declared()]), value=ANYTHING)
def test_a_value_is_kept_or_refused_in_our_words(name, value):
    try:
        options = AnimateOptions(**{name: value})
    except InputError as error:
        told = str(error)
        assert told.startswith(f"{name} is ") and ": it must be " in told
        assert len(told) < 200 and "\n" not in told and (error.__context__ is None or error.__suppress_context__)
    else:
        kept = getattr(options, name)
        if name in ("keep", "start", "duration", "save_motion"):  # they may be written in several ways
            return
        assert kept == (float(value) if isinstance(kept, float) else value)
        assert isinstance(kept, bool) == isinstance(value, bool)


def test_a_name_that_does_not_exist_is_refused_with_the_one_that_was_meant():
    with pytest.raises(InputError, match="there is no setting 'motion_strenght': did you mean motion_strength"):
        AnimateOptions(motion_strenght=1)
    with pytest.raises(InputError, match=r"'zzz'$"):
        AnimateOptions(zzz=1)


def test_several_mistakes_are_told_together():
    with pytest.raises(InputError, match=r"width is 1: .*; seed is -1: "):
        AnimateOptions(width=1, seed=-1)


def test_settings_are_frozen_and_replaced():
    options = AnimateOptions(seed=7, fps=Fraction(30000, 1001))
    assert options.replace(seed=8) == AnimateOptions(seed=8, fps=Fraction(30000, 1001))
    with pytest.raises(InputError, match="seed"):
        options.replace(seed=-1)
    with pytest.raises(ValidationError, match="frozen"):
        options.seed = 8
    assert options.seed == 7 and options.rate == Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"fps": 0}, "fps is 0: it must be a number from 1 to 120"),
        ({"reset_cache": 1}, "reset_cache is 1"),
        ({"prompts": ["a face"]}, "there is no setting 'prompts'"),
        ({"smoth": 1.0}, "there is no setting 'smoth': did you mean smooth?"),
    ],
)
def test_changes_that_cannot_be_used_are_refused_in_our_words(body, told):
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(ParameterChanges).validate_python(body)
    (problem,) = refused.value.errors()
    assert problem["msg"].startswith(told)


def test_changes_are_what_the_client_sent():
    sent = {"fps": 30, "seed": None, "mirror": True}
    assert TypeAdapter(ParameterChanges).validate_python(sent) == {"fps": 30, "mirror": True}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({"PERSONALIVE_MODEL": "", "PERSONALIVE_LOW_MEMORY": "0"}, {}),
        ({"PERSONALIVE_MODEL": "demo", "PERSONALIVE_LOW_MEMORY": "1"}, {"model": "demo", "low_memory": True}),
        (
            {"PERSONALIVE_ACCELERATE": "none", "PERSONALIVE_TINY_VAE": "/t"},
            {"accelerate": "none", "tiny_vae": Path("/t")},
        ),
    ],
)
def test_the_model_by_environment(environment, expected):
    assert ModelChoice.from_environment(environment) == ModelChoice(**expected)


@pytest.mark.parametrize("environment", [{"PERSONALIVE_LOW_MEMORY": "yes"}, {"PERSONALIVE_ACCELERATE": "warp"}])
def test_a_wrong_environment_is_refused(environment):
    with pytest.raises(InputError, match="must be"):
        ModelChoice.from_environment(environment)


def test_predict_sh_mounts_the_file_of_every_flag_that_names_one():
    parser = build_parser()
    (verbs,) = (action for action in parser._actions if action.dest == "verb")
    text = (ROOT / "predict.sh").read_text()
    (known,) = re.findall(r"^    (--ref_image .*)\)$", text, re.MULTILINE)
    flags = {
        action.option_strings[0]
        for name, verb in verbs.choices.items()
        if name not in ("batch", "export")  # which run natively only
        for action in verb._actions
        if action.dest in ("ref_image", "driving_video")
        or (action.type is Path and action.dest not in ("output", "save_motion", "file"))
    }
    assert set(known.split(" | ")) == flags


def test_help_and_mistakes_need_no_networks():
    """What a user sees within a second imports neither PyTorch nor what is built on it."""
    program = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'transformers', 'cv2', 'mediapipe', 'av', 'fastapi', 'aiortc'):\n"
        "    sys.modules[name] = None\n"
        "import personalive, personalive.settings, personalive.live.options, personalive.loading\n"
        "from personalive.cli.main import build_parser, main\n"
        "personalive.AnimateOptions(seed=1)\n"
        "assert main(['animate', '--width', '300']) == 1\n"
        "assert main(['serve', '--port', '-1']) == 1\n"
        "build_parser().parse_args(['serve', '--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--max_sessions" in done.stdout and "width is 300" in done.stderr and "Traceback" not in done.stderr


def test_public_names_are_there():
    import personalive

    for name in personalive.__all__:
        assert getattr(personalive, name)
    assert issubclass(personalive.AnimateOptions, BaseModel)
    with pytest.raises(AttributeError, match="no attribute 'Animate'"):
        _ = personalive.Animate
