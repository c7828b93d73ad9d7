"""What the run of the paper plans, and how it continues, with commands that are imitated."""

import itertools
import json
import shutil
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
from safetensors.numpy import save_file
from typer.testing import CliRunner

from scalecut import runs
from scalecut.cli import app as cli
from scalecut.paper import claims, runner
from scalecut.paper import numbers as paper
from scalecut.paper.numbers import (
    AREAS,
    COLUMNS,
    CUT,
    FINETUNED,
    INCEPTION,
    MAGNIFICATIONS,
    MATCHED,
    NETWORKS,
    NOISE,
    PATCHES,
    PICTURES,
    QUICK_NETWORKS,
    RESNET,
    SECTIONS,
    SIZES,
    STAND_IN,
    step_of,
)
from scalecut.paper.runner import ODD_KIDNEYS, planned
from scalecut.paper.tables import finding, markdown
from scalecut.pathology.patches import COLUMNS as PATCH_COLUMNS
from tests.paper.test_claims import differences
from tests.paper.test_numbers import curve, cut, lines_of, noise, planted, resized, stored, transfer

EACH = (STAND_IN, *NETWORKS[:-1])  # of an experiment for which a quick run has the first alone
CUTS, ALL_CUTS = ([step_of(CUT, each) for each in some] for some in (QUICK_NETWORKS, NETWORKS))


def of(networks, *kinds):
    return [step_of(kind, network) for kind in kinds for network in networks]


def transfers(networks, suffix=""):
    return [PATCHES + suffix, *of(networks, AREAS + suffix, MAGNIFICATIONS + suffix)]


QUICK = [*QUICK_NETWORKS, *of([STAND_IN], SIZES, NOISE), *CUTS, *transfers([STAND_IN]),
         *of([INCEPTION, RESNET], PICTURES)]  # fmt: skip
WHOLE = [*NETWORKS, *of(EACH, SIZES, NOISE), *ALL_CUTS, *transfers(EACH), *transfers(EACH, MATCHED),
         *of(NETWORKS, PICTURES), *of(EACH, FINETUNED)]  # fmt: skip
AT_SIZES, IN_NOISE, AREA, MAGNIFICATION = of([STAND_IN], SIZES, NOISE, AREAS, MAGNIFICATIONS)
OUT = Path("runs/paper")
# enough of each network for every claim
LAYERS = ["Mixed_5b", "Mixed_7a", "layer1.0", "layer4.1", "blocks.0", "blocks.4", "logits"]


def folder(*names):
    """--data with these folders and, with a suffix, these files of weights."""
    for name in names:
        place = Path("data") / name
        (place.parent if place.suffix else place).mkdir(parents=True, exist_ok=True)
        if place.suffix:
            place.touch()
    return Path("data")


def plan(data=None, *, quick=True, seed=0):
    return {step.name: step for step in planned(data, OUT, quick=quick, seed=seed)}


def words(step):
    return " ".join(step.arguments)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("scalecut.cli.paper.OUT.width", 200)


# --- what is planned -----------------------------------------------------------------------------


@pytest.mark.parametrize(("quick", "names"), [(True, QUICK), (False, WHOLE)])
@pytest.mark.parametrize("there", [(), ("voc-animals", "monuseg")])
def test_steps_come_in_their_order_whatever_there_is(quick, names, there):
    assert list(plan(folder(*there) if there else None, quick=quick)) == names


def test_step_comes_after_what_it_needs_and_writes_to_a_folder_of_its_own():
    before = set()
    for name, step in plan(folder("voc-animals", "nuclei"), quick=False).items():
        assert set(step.needs) <= before
        assert step.arguments[-2:] == ("--out", str(OUT / name))
        before.add(name)


def test_nothing_at_hand_leaves_scenes_and_says_what_is_lacking():
    steps = plan()
    assert plan(quick=False)[PATCHES + MATCHED].why_not == steps[PATCHES].why_not
    for network in (INCEPTION, RESNET):
        assert steps[network].why_not == (
            "no images with boxes; give --data a folder with imagenet or voc-animals or VOC2012"
        )
    assert steps[PATCHES].why_not == (
        "no tissue tiles; give --data a folder with nuclei or monuseg"
    )
    for network in (INCEPTION, RESNET):
        assert steps[step_of(PICTURES, network)].why_not
    assert "--data scenes" in words(steps[STAND_IN])
    assert "--data scenes" in words(steps[AT_SIZES])
    assert [name for name, step in steps.items() if step.why_not] == [
        INCEPTION, RESNET, PATCHES, step_of(PICTURES, INCEPTION), step_of(PICTURES, RESNET)
    ]  # fmt: skip


def test_folder_that_lacks_something_is_named():
    steps = plan(folder("other"))
    assert steps[INCEPTION].why_not.startswith("no images with boxes in 'data'; give --data")
    assert steps[PATCHES].why_not.startswith("no tissue tiles in 'data'; give --data")


IMAGES = {
    ("voc-animals",): ("voc-animals", "dog,cat,horse"),
    ("VOC2012",): ("VOC2012", "dog,cat,horse"),
    ("voc-animals", "imagenet"): ("imagenet", "n02058221,n01608432,n04037443"),
}


@pytest.mark.parametrize("there", IMAGES)
def test_every_network_is_probed_on_the_photographs_of_the_paper_where_they_are(there):
    steps, (name, classes) = plan(folder(*there)), IMAGES[there]
    for step in (*QUICK_NETWORKS, AT_SIZES):
        assert f"--data voc:{Path('data') / name} --subset {classes}" in words(steps[step])
    assert not any("scenes" in words(step) for step in steps.values())


def test_weights_of_the_folder_are_used_by_their_network_alone():
    data = folder("voc-animals", "weights/inception_v3.part.safetensors")
    file = str(Path("data") / "weights" / "inception_v3.part.safetensors")
    steps = {**plan(data, quick=False), **plan(data)}
    for name, step in steps.items():
        own = INCEPTION in name and not name.startswith(CUT)  # a cut is of a run, which knows
        assert (f"--weights {file} --allow-partial" in words(step)) == own
        assert "--weights" not in words(step) or own
    assert steps[step_of(PICTURES, RESNET)].why_not
    assert not steps[step_of(PICTURES, INCEPTION)].why_not


@pytest.mark.parametrize(("tensors", "is_whole"), [
    (["Mixed_5b.conv.weight", "fc.bias"], False), (["Mixed_5b.conv.weight", "fc.weight"], True),
])  # fmt: skip
def test_weights_without_a_classifier_give_no_answers_to_follow(tensors, is_whole):
    data = folder("voc-animals", "weights")
    file = data / "weights" / f"{INCEPTION}.safetensors"
    save_file({name: np.zeros(1, np.float32) for name in tensors}, file)
    steps = plan(data, quick=False)
    step = steps[step_of(SIZES, INCEPTION)]
    assert bool(step.arguments) == is_whole
    assert step.why_not == (
        "" if is_whole
        else "the weights in --data end before the logits, so there are no predictions"
    )  # fmt: skip
    assert steps[step_of(NOISE, INCEPTION)].arguments
    assert steps[step_of(SIZES, RESNET)].arguments  # of timm's weights


def test_tiles_of_monuseg_are_taken_with_their_split_and_without_the_odd_kidneys():
    step = plan(folder("monuseg"))[PATCHES]
    assert words(step).startswith(
        "patches data/monuseg/images --masks data/monuseg/labels --split data/monuseg/images.csv "
        f"--leave-out {ODD_KIDNEYS} --seed 0"
    )


def test_tiles_with_their_masks_beside_them_are_taken_as_they_are():
    steps = plan(folder("nuclei", "monuseg"), quick=False)  # the paper's own before others
    assert words(steps[PATCHES]).startswith("patches data/nuclei --masks data/nuclei --seed 0")
    assert "--match-blur" not in steps[PATCHES].arguments
    assert "--match-blur" in steps[PATCHES + MATCHED].arguments


def test_transfer_is_to_the_patches_of_its_own_blur():
    steps = plan(folder("nuclei"), quick=False)
    for suffix in ("", MATCHED):
        for kind, task in ((AREAS, "area"), (MAGNIFICATIONS, "magnification")):
            for network in NETWORKS:
                step = steps[step_of(kind + suffix, network)]
                assert f"--data patches:{OUT / (PATCHES + suffix)} " in words(step)
                assert f"--task {task} " in words(step)
                assert step.needs == (PATCHES + suffix, network)


def test_every_network_is_trained_as_in_the_paper_and_that_comes_last():
    steps = plan(folder("nuclei"), quick=False)
    last = list(steps)[-len(NETWORKS) :]
    assert last == of(EACH, FINETUNED)
    for name in last:
        assert "--mode finetune --raw-target" in words(steps[name])
        assert f"--data patches:{OUT / PATCHES} " in words(steps[name])


def test_quick_asks_for_less_of_the_same():
    data = folder("voc-animals")
    quick, whole = plan(data), plan(data, quick=False)
    assert "--random-networks 1 --permutations 99" in words(quick[INCEPTION])
    assert "--twins" not in words(whole[INCEPTION])
    assert set(quick) < set(whole)


def test_seed_reaches_every_step_that_draws():
    for name, step in plan(folder("voc-animals", "nuclei"), seed=7, quick=False).items():
        draws = name not in ALL_CUTS  # what is cut was chosen by the probe
        assert ("--seed 7" in words(step)) == draws


@pytest.mark.parametrize("quick", [True, False])
def test_every_step_can_be_typed(quick):
    data = folder("voc-animals", "monuseg", "weights/inception_v3.safetensors")
    whole = typer.main.get_command(cli.app)
    for name, step in plan(data, quick=quick, seed=3).items():
        if step.why_not:
            assert not step.arguments
            continue
        verb, *rest = step.arguments
        made = whole.commands[verb].make_context(verb, rest)  # an unknown option is refused here
        assert Path(made.params["out"]) == OUT / name
        assert made.params.get("seed", 3) == (0 if verb == "cut" else 3)
        if verb in ("probe", "visualise", "transfer", "invariance"):
            assert made.params["model"] in NETWORKS


# --- the commands that pretend -------------------------------------------------------------------


def prepare(place):
    """What each command leaves, by the name of its step."""
    for network in NETWORKS:
        few = {key: r2 for key, r2 in planted(network).items() if key[-1] in LAYERS}
        stored(curve(network, few, subsets=("dog", "mean")), place / network)
    made = {step: {"invariance": resized()} for step in of(NETWORKS, SIZES)}
    made |= {step: {"noise": noise()} for step in of(NETWORKS, NOISE)}
    made |= {step: {"transfer": transfer(), "differences": differences(0.1)}
             for step in of(NETWORKS, AREAS, MAGNIFICATIONS, FINETUNED)}  # fmt: skip
    made |= {step: {} for step in of(NETWORKS, PICTURES)}
    for step, tables in made.items():
        (place / step).mkdir()
        runs.write_run(place / step, tables, {}, command="")
    for network in NETWORKS:
        facts = {
            "format": 1, "architecture": network, "way": "passed on", "entry": "forward",
            "pooling": "mean", "head": 0, "num_features": 9, "preprocessing": {},
            **cut(),
            "files": {"model.safetensors": "", "example.safetensors": ""},
        }  # fmt: skip
        facts["proof"] |= {"batch_size": 1, "lines": ["", ""]}
        (place / step_of(CUT, network)).mkdir()
        (place / step_of(CUT, network) / "scalecut.json").write_text(json.dumps(facts))
    rows = {name: np.zeros(3) for name in PATCH_COLUMNS}
    rows |= {"patch": ["a", "b", "c"], "um_per_pixel": np.nan}
    rows |= {"split": ["train", "train", "test"], "magnification": [10.0, 40.0, 40.0]}
    (place / PATCHES).mkdir()
    pd.DataFrame(rows).to_parquet(place / PATCHES / "patches.parquet")
    (place / PATCHES / "patches.json").write_text("{}")
    (place / AT_SIZES / "report.html").touch()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = tmp_path_factory.mktemp("prepared")
    prepare(place)
    return place


def imitation(prepared, patch):
    """Commands that copy what is prepared; `does` gives a step its exit status and last line."""
    found = SimpleNamespace(calls=[], does={}, versions={"scalecut": "1"}, made=itertools.count())

    def imitated(arguments):
        out = Path(arguments[arguments.index("--out") + 1])
        found.calls.append(out.name)
        if out.name in found.does:
            return found.does[out.name]
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(prepared / out.name.replace(MATCHED, ""), out)
        (mark,) = [out / name for name in runs.MARKS.values() if (out / name).is_file()]
        facts = json.loads(mark.read_text())
        mark.write_text(json.dumps(facts | {"made": next(found.made)}))
        return 0, ""

    patch.setattr(runner, "execute", imitated)
    patch.setattr(runs, "versions", lambda: found.versions)
    folder("voc-animals", "nuclei", "weights/inception_v3.safetensors",
           "weights/resnet50_v1.safetensors")  # fmt: skip
    return found


@pytest.fixture
def world(prepared, monkeypatch):
    """Imitated commands, and no page."""
    monkeypatch.setattr(runner, "write_report", lambda folder: None)
    return imitation(prepared, monkeypatch)


@pytest.fixture(scope="module")
def only_run(prepared, tmp_path_factory):
    """One run with its page, for tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        patch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
        patch.setattr("scalecut.cli.paper.OUT.width", 200)
        world = imitation(prepared, patch)
        return SimpleNamespace(result=asked(world), calls=world.calls, folder=Path.cwd())


@pytest.fixture
def finished(only_run, monkeypatch):
    monkeypatch.chdir(only_run.folder)
    return only_run


@pytest.fixture
def unread(monkeypatch):
    """The steps alone: what they left is not told."""
    monkeypatch.setattr(runner, "read", lambda *given, **settings: paper.Found())


def asked(world, *more, data="data"):
    """What the command gives; an error that is our fault is raised."""
    world.calls.clear()
    given = ["paper", "--quick", *(["--data", data] if data else []), *more]
    result = CliRunner().invoke(cli.app, given)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def facts():
    return json.loads((OUT / "run.json").read_text(encoding="utf-8"))


def unquoted(page):
    """Quotation marks as they are, however a template writes them."""
    for written in ("&#34;", "&#39;", "&quot;", "&#x27;"):
        page = page.replace(written, "'" if "39" in written or "27" in written else '"')
    return page


# --- running -------------------------------------------------------------------------------------


def test_every_step_is_run_once_in_its_order_and_what_it_prints_is_not_shown(finished):
    assert finished.result.exit_code == 0, finished.result.output
    assert finished.calls == QUICK
    done = [line for line in finished.result.stderr.splitlines() if line.endswith(": done")]
    assert [line.split()[:3] for line in done] == [
        [str(number), "of", str(len(QUICK))] for number in range(1, len(QUICK) + 1)
    ]
    lines = finished.result.stdout.splitlines()
    assert lines[-1] == facts()["finding"]
    assert f"Run:    {OUT}" in lines
    assert any("Claims of the paper" in line for line in lines)


@pytest.mark.usefixtures("finished")
def test_run_holds_the_tables_of_its_steps_and_how_they_were_made():
    found = paper.read(OUT, {}, is_their_tissue=True)
    table, judged = paper.numbers_of(found), claims.claims(found)
    for name, expected in (("paper", table), ("claims", judged)):
        written = pd.read_csv(OUT / f"{name}.csv", keep_default_na=False, na_values={
            each: [""] for each in ("paper", "ours_as_paper", "ours", "ours_low", "ours_high")})  # fmt: skip # noqa: E501 - one row
        pd.testing.assert_frame_equal(written, expected, atol=1e-6, rtol=0, check_dtype=False)
    assert (OUT / "paper.md").read_text(encoding="utf-8") == markdown(table, judged)
    told = facts()
    assert told["finding"] == finding(table, judged)
    assert told["settings"] == {"quick": True, "data": "data", "skip": [], "seed": 0}
    assert [step["step"] for step in told["steps"]] == QUICK == list(told["stages"])
    assert told["left_out"] == []
    by_name = {step["step"]: step["command"] for step in told["steps"]}
    assert by_name[step_of(CUT, RESNET)] == (
        f"scalecut cut --from {OUT / RESNET} --rule peak --out {OUT / step_of(CUT, RESNET)}"
    )


@pytest.mark.usefixtures("finished")
def test_page_has_the_claims_the_tables_the_figures_and_the_pages_of_the_steps():
    assert facts()["pages"] == [*QUICK_NETWORKS, AT_SIZES]
    figures = {path.name for path in (OUT / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in (INCEPTION, RESNET) for kind in ("png", "svg")}
    page = (OUT / "report.html").read_text(encoding="utf-8")
    assert escape(facts()["finding"]) in page
    assert f"{AT_SIZES}/report.html" in page
    judged = pd.read_csv(OUT / "claims.csv")
    for text in (*judged.claim, *judged.found, *map("{0[0]}: {0[1]}".format, SECTIONS.items())):
        assert escape(text, quote=False) in unquoted(page), text


def test_json_is_all_that_is_printed_then(world):
    result = asked(world, "--json")
    told = json.loads(result.stdout)
    assert told["run"] == str(OUT)
    assert told["finding"] == facts()["finding"]
    assert len(told["paper"]) == len(pd.read_csv(OUT / "paper.csv"))
    assert set(told["paper"][0]) == set(COLUMNS)
    assert len(told["claims"]) == len(pd.read_csv(OUT / "claims.csv"))


def test_without_data_the_stand_in_is_run_on_scenes_and_nothing_is_compared(world):
    result = asked(world, data=None)
    assert result.exit_code == 0, result.output
    assert world.calls == [STAND_IN, AT_SIZES, IN_NOISE, step_of(CUT, STAND_IN)]
    assert facts()["finding"].startswith("None of the paper's numbers can be compared here")
    left_out = {each["name"]: each["reason"] for each in facts()["left_out"]}
    assert left_out[step_of(CUT, INCEPTION)] == f"needs the step {INCEPTION!r}"
    assert left_out[AREA] == f"needs the step {PATCHES!r}"
    assert set(left_out) == set(QUICK) - set(world.calls)
    rows = pd.read_csv(OUT / "paper.csv")
    assert set(lines_of(rows, network=INCEPTION, section="A.2").why) == {left_out[INCEPTION]}


# --- going on ------------------------------------------------------------------------------------


def test_second_time_nothing_is_run_again_and_the_tables_are_the_same(world):
    asked(world)
    before = (OUT / "paper.csv").read_bytes(), (OUT / "claims.csv").read_bytes()
    result = asked(world)
    assert world.calls == []
    assert result.stderr.count(": done before\n") == len(QUICK)
    assert ((OUT / "paper.csv").read_bytes(), (OUT / "claims.csv").read_bytes()) == before
    assert facts()["left_out"] == []


@pytest.mark.usefixtures("unread")
def test_other_versions_run_everything_again(world):
    asked(world)
    world.versions = {"scalecut": "2"}
    asked(world)
    assert world.calls == QUICK


@pytest.mark.usefixtures("unread")
def test_step_whose_folder_is_gone_is_run_again(world):
    asked(world)
    shutil.rmtree(OUT / IN_NOISE)
    asked(world)
    assert world.calls == [IN_NOISE]


@pytest.mark.usefixtures("unread")
def test_step_whose_weights_or_pictures_were_replaced_is_run_again_and_what_is_made_of_it(world):
    asked(world)
    file = Path("data") / "weights" / f"{INCEPTION}.safetensors"
    file.rename("away")
    Path("away").rename(file)  # another file of that name, written whenever
    asked(world)
    own = [INCEPTION, step_of(CUT, INCEPTION), step_of(PICTURES, INCEPTION)]
    assert world.calls == own
    (Path("data") / "nuclei" / "one_more.png").touch()
    asked(world)
    assert world.calls == [PATCHES, AREA, MAGNIFICATION]
    asked(world)
    assert world.calls == []


@pytest.mark.usefixtures("unread")
def test_what_was_made_of_an_earlier_result_is_made_again(world):
    asked(world)
    (Path("data") / "imagenet").mkdir()  # other photographs, other curves, and other cuts of them
    asked(world)
    assert world.calls == [*QUICK_NETWORKS, AT_SIZES, *CUTS, AREA, MAGNIFICATION]


@pytest.mark.usefixtures("unread")
def test_what_was_made_of_an_earlier_result_is_made_again_after_a_stop_too(world):
    asked(world)
    (Path("data") / "imagenet").mkdir()
    world.does[IN_NOISE] = world.does[AT_SIZES] = (130, "")
    asked(world)
    assert world.calls == [*QUICK_NETWORKS, AT_SIZES]
    world.does.clear()
    asked(world)
    assert world.calls == [AT_SIZES, *CUTS, AREA, MAGNIFICATION]


@pytest.mark.long
def test_step_that_is_not_asked_for_now_is_not_told_of_from_before(world):
    given = ["paper", "--data", "data"]
    assert CliRunner().invoke(cli.app, given).exit_code == 0
    assert world.calls == WHOLE
    assert "with blur matched" in (OUT / "claims.csv").read_text()
    asked(world)
    assert "with blur matched" not in (OUT / "claims.csv").read_text()


def test_step_that_is_skipped_is_listed_with_that_as_the_reason_and_what_needs_it_too(world):
    result = asked(world, "--skip", f"{INCEPTION},noise")
    assert result.exit_code == 0, result.output
    lacking = {INCEPTION: "skipped by --skip", IN_NOISE: "skipped by --skip",
               step_of(CUT, INCEPTION): f"needs the step {INCEPTION!r}"}  # fmt: skip
    assert world.calls == [name for name in QUICK if name not in lacking]
    assert {each["name"]: each["reason"] for each in facts()["left_out"]} == lacking
    assert facts()["settings"]["skip"] == [INCEPTION, "noise"]
    asked(world)
    assert world.calls == [name for name in QUICK if name in lacking]


# --- what goes wrong -----------------------------------------------------------------------------


def test_step_that_fails_is_left_out_with_its_reason_and_the_rest_goes_on(world):
    world.does[INCEPTION] = (2, "scalecut: Of 3 images none is left. Give more.")
    result = asked(world)
    assert result.exit_code == 0, result.output
    assert world.calls == [name for name in QUICK if name != step_of(CUT, INCEPTION)]
    assert facts()["left_out"] == [
        {"name": INCEPTION, "reason": "Of 3 images none is left. Give more."},
        {"name": step_of(CUT, INCEPTION), "reason": f"needs the step {INCEPTION!r}"},
    ]
    assert f"{INCEPTION}: Of 3 images none is left. Give more.\n" in result.stderr
    rows = pd.read_csv(OUT / "paper.csv")
    rows = lines_of(rows, network=INCEPTION, section="A.2")
    assert set(rows.why) == {"Of 3 images none is left. Give more."}
    assert rows.ours_as_paper.isna().all()
    assert (lines_of(pd.read_csv(OUT / "paper.csv"), network=RESNET)["mark"] == "reproduced").any()
    world.does.clear()
    asked(world)
    assert world.calls == [INCEPTION, step_of(CUT, INCEPTION)]
    assert facts()["left_out"] == []


def test_killed_step_is_left_out_with_its_signal(world):
    world.does[IN_NOISE], world.does[AT_SIZES] = (-9, ""), (-11, "")
    result = asked(world)
    assert result.exit_code == 0, result.output
    assert facts()["left_out"] == [
        {"name": AT_SIZES, "reason": "ended by signal 11 (Segmentation fault)"},
        {"name": IN_NOISE, "reason": "ended by signal 9 (Killed), usually for lack of memory"},
    ]
    assert world.calls == QUICK


def test_step_that_fails_now_leaves_nothing_of_its_earlier_result_in_the_tables(world):
    asked(world)
    assert STAND_IN in facts()["pages"]
    world.versions = {"scalecut": "2"}
    world.does[STAND_IN] = (2, "scalecut: Not now.")
    asked(world)
    assert (OUT / STAND_IN / "report.html").is_file()  # of the earlier result
    assert STAND_IN not in facts()["pages"] and INCEPTION in facts()["pages"]
    rows = pd.read_csv(OUT / "paper.csv")
    row = lines_of(rows, network=STAND_IN, section="A.2").iloc[0]
    assert row.why == "Not now."
    assert pd.isna(row.ours)
    left_out = {each["name"]: each["reason"] for each in facts()["left_out"]}
    assert left_out[step_of(CUT, STAND_IN)] == f"needs the step {STAND_IN!r}"
    assert AREA not in world.calls


def test_data_taken_away_takes_its_numbers_along(world):
    asked(world)
    asked(world, data=None)
    rows = lines_of(pd.read_csv(OUT / "paper.csv"), network=INCEPTION, section="A.2")
    assert rows.ours_as_paper.isna().all()
    assert rows.why.str.startswith("no images with boxes").all()
    assert step_of(CUT, INCEPTION) in {each["name"] for each in facts()["left_out"]}


def test_stopped_run_says_where_and_leaves_no_table(world):
    world.does[AT_SIZES] = (130, "")
    result = asked(world)
    assert result.exit_code == 130
    assert "scalecut: Stopped;" in result.stderr
    assert world.calls == QUICK[:4]
    assert not (OUT / "run.json").exists()
    assert not (OUT / "paper.csv").exists()
    world.does.clear()
    assert asked(world).exit_code == 0
    assert world.calls == QUICK[3:]


def test_what_cannot_be_run_is_one_line_and_nothing_is_made(world):
    folder("two/weights/inception_v3.a.safetensors", "two/weights/inception_v3.b.safetensors")
    for data, more, text in (
        ("NOSUCH", (), "There is no folder 'NOSUCH'. Give --data a folder, or none."),
        (
            "data/two",
            (),
            "There are 2 files of weights of inception_v3 in 'data/two/weights', "
            "inception_v3.a.safetensors and inception_v3.b.safetensors first. Keep one of them.",
        ),
        (
            "data",
            ("--skip", "finetuned"),
            "No step begins with 'finetuned'. There are 13, which begin with inception_v3, "
            "resnet50_v1, tf_efficientnet_lite0, image-size, noise, cut, patches, areas, "
            "magnifications, pictures. Give --skip some of these.",
        ),
    ):
        result = asked(world, *more, data=data)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"scalecut: {text}\n"
        assert world.calls == [] and not OUT.exists()


@pytest.mark.parametrize("file", ["thesis.tex", "run.json", "scalecut.json"])
def test_folder_that_holds_something_else_is_refused(world, file):
    OUT.mkdir(parents=True)
    (OUT / file).write_text("{}")
    result = asked(world)
    assert result.exit_code == 2
    assert result.stderr == (
        f"scalecut: '{OUT}' exists and holds no paper of scalecut, so it is not replaced. Give "
        "--out a new folder.\n"
    )
    assert [path.name for path in OUT.iterdir()] == [file]
    assert world.calls == []
