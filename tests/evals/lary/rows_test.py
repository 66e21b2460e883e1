"""Reading the files of LARYBench."""

import subprocess
import sys

import numpy as np
import pytest

from jaxlab.evals.lary import rows, splits, tracks

CALVIN = "dataset,type,perspective,src_img,src_state,tgt_img,tgt_state,action"
ROBOCOIN = "dataset,robot_type,perspective,src_img,tgt_img,action"
AGIBOT = "dataset,task_id,episode_id,perspective,robot_type,src_img,tgt_img,action"
LIBERO = "src_img,tgt_img,action"
CLIPS = "video_path,action,sample_indices"


def calvin(n, folder="images/", episode="ep_1"):
    a, b = (f"{episode}/{{}}_{frame:06d}" for frame in (n, n + 5))
    state = "states/" if folder else ""
    actions = "actions/" if folder else ""
    return (
        f"CALVIN,robot,1st,{folder}{a.format('frame')}.png,{state}{a.format('state')}.npy,"
        f"{folder}{b.format('frame')}.png,{state}{b.format('state')}.npy,"
        f"{actions}{episode}/action_{n:06d}to{n + 4:06d}.npy"
    )


def libero(segment, label, backwards=False):
    ends = [f"libero_90/{segment}/action_{end}.png" for end in ("start", "end")]
    return ",".join([*(ends[::-1] if backwards else ends), label])


@pytest.fixture
def table(tmp_path):
    """Writes a CSV of these lines and returns its path."""

    def write(name, *lines, end="\n"):
        path = tmp_path / name
        path.write_bytes(end.join([*lines, ""]).encode())
        return path

    return write


# File, rows, track, split, steps, episodes, robots. Counts and empty robots were taken from the
# files with grep and sort; three rows of VLABench have a broken path, "images/epframe_N.png".
REAL = [
    ("agibotbeta_metadata_unseen", 12303, "agibotbeta", "unseen", 45, 2106, {"a2d": 12303}),
    ("calvin_metadata_val", 11969, "calvin", "val", 5, 1087, {"": 11969}),
    ("val_la_calvin_5_dinov2", 11969, "calvin", "val", 5, 1087, {"": 11969}),
    ("vlabench_15_metadata_val", 8919, "vlabench", "val", 15, 4137, {"": 8919}),
    (
        "robocoin_metadata_unseen",
        14159,
        "robocoin",
        "unseen",
        10,
        1251,
        {
            "": 7176,
            "discover_robotics_aitbot_mmk2": 5264,
            "galaxea_r1_lite": 1128,
            "leju_robot": 376,
            "agilex_cobot_decoupled_magic": 215,
        },
    ),
]


@pytest.mark.parametrize(("name", "size", "track", "split", "steps", "episodes", "robots"), REAL)
def test_real_files(real_data, name, size, track, split, steps, episodes, robots):
    panel = rows.read(real_data(f"lary/{name}.csv"), root=None, missing="error")
    assert (len(panel.rows), panel.track, panel.split) == (size, track, split)
    assert {row.steps for row in panel.rows} == {steps}
    assert len({row.episode for row in panel.rows}) == episodes
    assert panel.robots == robots
    assert (panel.missing, panel.rejected, panel.leakage, panel.classes) == ((), (), (), ())


def test_a_real_file_without_its_data_says_which_file_is_missing(real_data, tmp_path):
    path = real_data("lary/calvin_metadata_val.csv")
    first = tmp_path / "images/ep_1/frame_000065.png"
    with pytest.raises(FileNotFoundError, match="missing") as error:
        rows.read(path, tmp_path)
    assert str(first) in str(error.value)
    assert f"{path}:2: src_img" in str(error.value)
    for name in ("frame_000065.png", "frame_000070.png"):
        (tmp_path / "images/ep_1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images/ep_1" / name).touch()
    (tmp_path / "actions/ep_1").mkdir(parents=True)
    (tmp_path / "actions/ep_1/action_000065to000069.npy").touch()
    panel = rows.read(path, tmp_path, missing="skip")
    assert len(panel.rows) == 1
    assert len(panel.missing) == 11968
    assert panel.missing[0] == rows.Missing(f"{path}:3", f"{tmp_path}/images/ep_1/frame_000075.png")


def test_fields_and_track_of_every_kind(table):
    clip = "EgoDex/a/clip.mp4,pick,"
    cases = {
        "calvin": (CALVIN, calvin(65)),
        "vlabench": (CALVIN, calvin(65).replace("CALVIN", "VLABench")),
        "agibotbeta": (
            AGIBOT,
            "task_5,5,80,1st,a2d,task_5/images/ep_80/frame_1.png,task_5/images/ep_80/frame_46.png,"
            "task_5/actions/ep_80/action_000001to000045.npy",
        ),
        "robocoin": (
            ROBOCOIN,
            "Pick,leju,1st,Pick/images/ep_1/f.png,Pick/images/ep_1/g.png,Pick/actions/ep_1/a.npy",
        ),
        "libero": (LIBERO, libero("x_demo/demo_3/action_04", "Up")),
        "human_1st": (CLIPS, f'{clip}"0,2,4,6,8,10,12,14,16"'),
        "robot_1st": (CLIPS, f'AgiBotWorld-Beta/c.mp4,pick,"{",".join("012345678")}"'),
    }
    found = {}
    for track, lines in cases.items():
        found[track] = rows.read(table(f"{track}_metadata_train.csv", *lines))
        assert found[track].track == track
    assert {name for name in tracks.TRACKS if not name.startswith("synthetic")} == set(cases)
    row = found["agibotbeta"].rows[0]
    assert (row.task_id, row.episode_id, row.robot_type, row.steps) == ("5", "80", "a2d", 45)
    assert row.episode == row.group == "task_5/ep_80"
    row = found["calvin"].rows[0]
    assert row.src_state == "states/ep_1/state_000065.npy"
    assert (row.id, row.steps) == ("calvin_metadata_train.csv:2", 5)
    assert found["robocoin"].rows[0].steps == 10  # its file's name does not say
    row = found["libero"].rows[0]
    assert (row.episode, row.group) == (
        "libero_90/x_demo/demo_3",
        "libero_90/x_demo/demo_3/action_04",
    )
    assert found["human_1st"].rows[0].sample_indices == tuple(range(0, 17, 2))


def test_dimensions_are_those_of_the_release():
    groups = {name: track.groups for name, track in tracks.TRACKS.items() if track.dims}
    # GROUP_INDICES of the released regression/main.py.
    pose = {"position": [0, 1, 2], "orientation": [3, 4, 5], "gripper": [6]}
    assert groups["calvin"] == groups["vlabench"] == pose
    assert groups["agibotbeta"] == {
        "position": [0, 1, 2, 3, 4, 5],
        "orientation": list(range(6, 14)),
        "gripper": [14, 15],
    }
    both = {"position": [0, 1, 2, 6, 7, 8], "orientation": [3, 4, 5, 9, 10, 11]}
    assert groups["robocoin"] == both
    assert [len(tracks.TRACKS[name].dims) for name in groups] == [7, 7, 16, 3, 12]


def test_the_release_s_folders(table, tmp_path):
    cases = {
        ("calvin_metadata_val.csv", CALVIN, calvin(1)): "regression/calvin/val_stride5/images/ep_1",
        ("val_la_x.csv", CALVIN, calvin(1, "")): "regression/calvin/val_stride5/images/ep_1",
        (
            "robocoin_metadata_seen_train.csv",
            ROBOCOIN,
            "P,r,1st,P/images/ep_1/f.png,P/images/ep_1/g.png,P/actions/ep_1/a.npy",
        ): "regression/robocoin_10/P/images/ep_1",
        (
            "libero_metadata_val.csv",
            LIBERO,
            libero("demo_1/action_01", "Up"),
        ): "classification/LIBERO/libero_90/demo_1/action_01",
    }
    (tmp_path / "regression").mkdir()
    for (name, *lines), folder in cases.items():
        with pytest.raises(FileNotFoundError, match="src_img is missing") as error:
            rows.read(table(name, *lines), tmp_path)
        assert f" {tmp_path}/{folder}/" in str(error.value)


def test_features_lie_where_the_release_puts_them(table, tmp_path):
    lines = (f"{CALVIN},la_path", f"{calvin(1, '')},latent_action_00000000.npz")
    path = table("val_la_calvin_5_dinov2.csv", *lines)
    place = tmp_path / "la/calvin/stride_5/val/dinov2"
    place.mkdir(parents=True)
    chunk = tmp_path / "actions/ep_1/action_000001to000005.npy"
    chunk.parent.mkdir(parents=True)
    chunk.touch()
    # Images are not needed where there are features.
    with pytest.raises(FileNotFoundError, match=f"la_path is missing: {place}/latent_action_0"):
        rows.read(path, tmp_path, features=tmp_path / "la")
    (place / "latent_action_00000000.npz").touch()
    panel = rows.read(path, tmp_path, features=tmp_path / "la")
    assert panel.path(panel.rows[0], "la_path") == place / "latent_action_00000000.npz"
    (tmp_path / "latent_action_00000000.npz").touch()
    panel = rows.read(path, tmp_path)
    assert panel.path(panel.rows[0], "la_path") == tmp_path / "latent_action_00000000.npz"
    assert panel.path(panel.rows[0], "action") == chunk


def test_classes_are_numbered_over_the_files_of_all_splits(table):
    table("libero_metadata_train.csv", LIBERO, libero("d/demo_1/action_01", "Down"))
    val = table("libero_metadata_val.csv", LIBERO, libero("d/demo_2/action_01", "Up"))
    panel = rows.read(val)
    assert panel.classes == ("Down", "Up")
    assert panel.class_ids["Up"] == 1  # alone it would be 0
    assert panel.counts == {"Down": 0, "Up": 1}
    assert [path.name for path in panel.beside] == ["libero_metadata_train.csv"]
    assert rows.read(val, beside=()).classes == ("Up",)


def test_twins_and_reversals_in_the_other_split_are_leakage(table):
    segments = [f"d/demo_{n}/action_01" for n in range(4)]
    table(
        "libero_metadata_train.csv",
        LIBERO,
        libero(segments[0], "Down", backwards=True),
        libero(segments[1], "Up"),
    )
    val = table(
        "libero_metadata_val.csv",
        LIBERO,
        libero(segments[0], "Up"),
        libero(segments[1], "Up"),
        # A pair and its reversal in one file do not leak.
        libero(segments[2], "Up"),
        libero(segments[2], "Down", backwards=True),
    )
    assert rows.read(val).leakage == (
        rows.Leak("libero_metadata_val.csv:2", "libero_metadata_train.csv:2", "reversal"),
        rows.Leak("libero_metadata_val.csv:3", "libero_metadata_train.csv:3", "twin"),
    )
    assert rows.read(val, beside=()).leakage == ()


def test_malformed_rows_of_a_file_beside_are_told(table, caplog):
    table("libero_metadata_train.csv", LIBERO, libero("d/demo_1/action_01", "Down"), "a,b,c,d")
    panel = rows.read(table("libero_metadata_val.csv", LIBERO, libero("d/demo_2/action_01", "Up")))
    assert (panel.classes, panel.rejected) == (("Down", "Up"), ())
    assert "libero_metadata_train.csv: 1 malformed rows are left out" in caplog.text


def test_leakage_looks_through_folders_and_into_clips(table):
    table("a_train.csv", CALVIN, calvin(5))
    assert [leak.kind for leak in rows.read(table("a_val.csv", CALVIN, calvin(5, ""))).leakage] == [
        "twin"
    ]
    frames = "0,1,2,3,4,5,6,7,8"
    table("b_train.csv", CLIPS, f'EgoDex/a.mp4,pick,"{frames[::-1]}"')
    leaks = rows.read(table("b_val.csv", CLIPS, f'EgoDex/a.mp4,put,"{frames}"')).leakage
    assert [leak.kind for leak in leaks] == ["reversal"]


def test_lines_end_as_they_do_on_windows(table):
    lines = (LIBERO, libero("d/demo_1/action_01", "Up"), "", libero("d/demo_2/action_01", "Down"))
    panel = rows.read(table("x.csv", *lines, end="\r\n"))
    assert [row.action for row in panel.rows] == ["Up", "Down"]
    assert panel.rows[1].id == "x.csv:4"
    path = table("y.csv", *lines)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(rows.read(path).rows) == 2


BAD = [
    ((CALVIN, "CALVIN,robot"), ":2: 2 cells, where 8 are named"),
    ((CALVIN, calvin(1).replace("images/ep_1/frame_000001.png", " ")), ":2: src_img is empty"),
    ((CALVIN, calvin(9).replace("to000013", "to000003")), ":2: the chunk .* ends before it begins"),
    ((CALVIN, calvin(1), calvin(2).replace("CALVIN", "VLABench")), ":3: dataset says .* not of"),
    ((CLIPS, 'EgoDex/a.mp4,pick,"0,1,2"'), ":2: sample_indices must be 9 frame numbers"),
    ((CLIPS, 'EgoDex/a.mp4,pick,"0,1,2,3,4,5,6,7,-8"'), ":2: sample_indices must be 9"),
    ((LIBERO, "a.png,b\x07.png,Up"), ":2: tgt_img holds what cannot be printed"),
]


@pytest.mark.parametrize(("lines", "cause"), BAD)
def test_a_bad_row_is_named_or_counted(table, lines, cause):
    good = {CALVIN: calvin(700), CLIPS: f'EgoDex/b.mp4,put,"{",".join("012345678")}"'}
    path = table("x.csv", *lines, good.get(lines[0], libero("d/demo_1/action_01", "Up")))
    with pytest.raises(ValueError, match=f"x.csv{cause}"):
        rows.read(path)
    panel = rows.read(path, bad_rows="skip")
    assert len(panel.rows) == len(lines) - 1
    assert len(panel.rejected) == 1


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (("",), "no column src_img, tgt_img, action|no column video_path"),
        ((CALVIN,), "no usable row"),
        (
            ("dataset,perspective,src_img,tgt_img,action", "a,b,c,d,e"),
            "no column robot_type, which",
        ),
        (
            ("src_img,action", "a.png,Up"),
            "no column tgt_img, which a file of track synthetic_pairs",
        ),
        ((CALVIN, calvin(1).replace("CALVIN", "Mine")), "of tracks with dataset '.calvin'"),
        (("src_img,tgt_img,action,action", "a,b,c,d"), "the column action occurs twice"),
        ((LIBERO, "a,b,c", 'a,b,"never ended'), "x.csv:3: not CSV: unexpected end"),
        ((LIBERO, "a,b,c\0"), "x.csv:2: action holds what cannot be printed"),
    ],
)
def test_a_bad_file_is_named(table, lines, cause):
    with pytest.raises(ValueError, match=cause) as error:
        rows.read(table("x.csv", *lines))
    assert "x.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_arguments(table):
    path = table("x.csv", LIBERO, libero("d/demo_1/action_01", "Up"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        rows.read(path.with_name("y.csv"))
    with pytest.raises(ValueError, match='missing must be "error" or "skip", got \'drop\''):
        rows.read(path, missing="drop")
    panel = rows.read(path)
    with pytest.raises(ValueError, match="read the rows with root"):
        panel.path(panel.rows[0], "src_img")


def test_rows_need_no_extra():
    program = (
        "import sys, jaxlab.evals.lary.rows, jaxlab.evals.lary.media, jaxlab.evals.lary.world\n"
        "print(*{'av', 'PIL', 'pandas', 'jax', 'torch', 'tensorflow_datasets'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == ""


def _pairs(*groups):
    """Rows of one group and label each."""
    return tuple(
        rows.Row(str(i), label, group=group, episode=group[0])
        for i, (group, label) in enumerate(groups)
    )


def test_a_grouped_split_divides_no_group_and_keeps_classes_on_both_sides():
    found = _pairs(
        *((f"{n}", label) for n in range(40) for label in ("Open", "Close")),
        *((f"r{n}", "Rare") for n in range(2)),
        ("only", "Lonely"),
        ("only", "Lonely"),
    )
    split = splits.grouped(found, 0.25, seed=3)
    assert {row.group for row in split.train}.isdisjoint(row.group for row in split.val)
    assert sorted(split.train + split.val, key=lambda row: int(row.id)) == list(found)
    labels = [row.action for row in split.val]
    assert {name: labels.count(name) for name in set(labels)} == {
        "Open": 10,
        "Close": 10,
        "Rare": 1,
    }
    assert split.lonely == ("Lonely",)
    assert splits.grouped(found, 0.25, seed=3) == split
    assert splits.grouped(found, 0.25, seed=4) != split
    with pytest.raises(ValueError, match="needs two of them"):
        splits.grouped(found[-2:])


def test_no_class_loses_its_last_group_to_validation():
    # Either group is the only one of a class of its own, and both are of a third.
    found = _pairs(("g", "A"), ("g", "C"), ("h", "B"), ("h", "C"))
    split = splits.grouped(found, 0.5)
    assert (len(split.train), split.lonely) == (4, ("A", "B"))


def test_unseen_robots_and_balanced_weights():
    seen, other = (
        rows.Panel(tuple(rows.Row("", "a.npy", robot_type=name) for name in names), "robocoin", "")
        for names in (("a", "b"), ("b", "c", "", "c"))
    )
    assert splits.unseen_robots(other, seen) == {"": 1, "c": 2}
    weights = splits.balanced_weights(np.array([0, 0, 0, 2]), 4)
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    with pytest.raises(ValueError, match="labels in"):
        splits.balanced_weights(np.array([4]), 4)
