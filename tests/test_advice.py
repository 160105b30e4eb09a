"""What a message says to write instead is written, and works."""

import copy
import importlib
import pickle
import re

import numpy as np
import pytest

import normzoo as nz

F = nz.functional
X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def said(call, error=TypeError):
    """The code of a message: what stands behind its last `write`."""
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    found = re.search(r".*\bwrite (.+?)(?:, which .*|, whose .*|, or of another axis)?$", str(raised.value), re.S)
    assert found, raised.value
    return found[1]


class Table:
    """A DataFrame, as far as it is looked at: it iterates over the names of its columns."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(f"column {i}" for i in range(self.values.shape[1]))

    def to_numpy(self):
        return self.values.astype(np.float64)

    def __array__(self, dtype=None, copy=None):
        return self.to_numpy()


def table(values):
    try:
        return importlib.import_module("pandas").DataFrame(values)
    except ImportError:
        return Table(values)


def sparse():
    return pytest.importorskip("scipy.sparse").csr_matrix(X)


OTHERS = {
    "list": X.tolist,
    "table": lambda: table(X),
    "sparse": sparse,
    "sparse integers": lambda: sparse().astype(np.int32),
    "memory": lambda: memoryview(X),
    "integers": lambda: X.astype(int),
    "booleans": lambda: X > 0,
    "objects": lambda: X.astype(object),
    "strings": lambda: X.astype(str),
    "long double": lambda: X.astype(np.longdouble),
    "fields": lambda: X.view([(f"f{i}", "f4") for i in range(8)])[:, 0],
    "tensor": lambda: torch().from_numpy(X),
    "tensor with gradient": lambda: torch().from_numpy(X).requires_grad_(),
    "bfloat16 tensor": lambda: torch().from_numpy(X).bfloat16(),
    "integer tensor": lambda: torch().ones((4, 8), dtype=torch().int32),
    "sparse tensor": lambda: torch().from_numpy(X).to_sparse(),
    "double tensor": lambda: torch().from_numpy(X).double(),
}


def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    "call",
    [nz.LayerNorm(8), lambda x: F.layer_norm(x, (8,)), nz.DyT(8), nz.BatchNorm(8)],
    ids=["layer", "functional", "exact", "tracked"],
)  # fmt: skip
def test_what_is_no_array_of_floats(kind, call):
    x = OTHERS[kind]()
    found = eval(said(lambda: call(x)), {"np": np, "x": x})
    assert call(found).shape == (4, 8)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (None, "got None; pass an array"),
        ("64", "got '64'; pass an array"),
        (np.array([[1], [1, 2]], object), "got object; pass numbers"),
        (np.full((4, 8), "a"), "got <U1; pass numbers"),
    ],
    ids=["none", "text", "ragged", "letters"],
)
def test_where_nothing_would_work_nothing_is_said(x, got):
    with pytest.raises(TypeError) as raised:
        nz.LayerNorm(8)(x)
    assert got in str(raised.value)


def test_complex_tensors_and_arrays_keep_their_imaginary_part():
    for x in (X.astype(np.complex64), torch().from_numpy(X).to(torch().complex64)):
        with pytest.raises(TypeError, match=r"x\.real and x\.imag"):
            nz.LayerNorm(8)(x)
    nzt = importlib.import_module("normzoo.torch")
    with pytest.raises(TypeError, match=r"write input\.real and input\.imag"):
        nzt.functional.layer_norm(x, (8,))
    assert nzt.functional.layer_norm(x.real, (8,)).shape == (4, 8)


def test_a_tensor_is_sent_to_the_norms_of_tensors():
    for x in (torch().from_numpy(X), torch().zeros(4, 8, device="meta")):
        with pytest.raises(TypeError, match=r"got Tensor; use normzoo\.torch, whose norms take tensors"):
            nz.LayerNorm(8)(x)
        assert importlib.import_module("normzoo.torch").LayerNorm(8)(x).shape == (4, 8)


def test_a_masked_array():
    masked = np.ma.masked_less(X, -1)
    told = r"\(mask=~np\.ma\.getmaskarray\(x\) says it of x\.data\), got a masked array; write x\.filled\(\.\.\.\)$"
    with pytest.raises(TypeError, match=told):
        nz.LayerNorm(8)(masked)
    assert nz.LayerNorm(8)(masked.filled(0)).shape == (4, 8)
    assert nz.LayerNorm(8)(masked.data, mask=~np.ma.getmaskarray(masked)).shape == (4, 8)


@pytest.mark.parametrize("make", [lambda: table(X), sparse], ids=["table", "sparse"])
def test_a_table_for_batches(make):
    batches, names = make(), {"np": np}
    norm, standardize = nz.BatchNorm(8), nz.Standardize(8)
    if hasattr(batches, "to_numpy"):  # a data tool takes frames
        standardize.adapt(batches).update(batches)
    else:
        code = said(lambda: standardize.adapt(batches))
        standardize.adapt(eval(code, names | {"batches": batches}))
        standardize.update(eval(said(lambda: standardize.update(batches)), names | {"batch": batches}))
    np.testing.assert_allclose(standardize.mean, X.mean(0), atol=1e-6)
    code = said(lambda: nz.recalibrate(norm, batches))
    nz.recalibrate(norm, eval(code, names | {"batches": batches}))
    np.testing.assert_allclose(norm.running_mean, X.mean(0), atol=1e-6)
    code = said(lambda: nz.recalibrate(norm, batches, batch_size=2))
    nz.recalibrate(norm, eval(code, names | {"batches": batches}), batch_size=2)


@pytest.mark.parametrize("batches", ["a.csv", None, 3, {"a": X}], ids=str)
def test_what_gives_no_batches(batches):
    for call in (lambda: nz.Standardize(8).adapt(batches), lambda: nz.recalibrate(nz.BatchNorm(8), batches)):
        with pytest.raises(
            TypeError, match=r"expected batches to be iterable, of arrays, got ('a.csv'|None|3|dict); pass"
        ):
            call()


@pytest.mark.parametrize(
    "make",
    [nz.BatchNorm, nz.InstanceNorm, lambda c, **o: nz.GroupNorm(2, c, **o), nz.FrozenBatchNorm],
    ids=["batch", "instance", "group", "frozen"],
)
def test_channels_on_another_axis(make):
    x = np.random.default_rng(1).standard_normal((4, 16, 8)).astype(np.float32)
    assert said(lambda: make(8)(x), ValueError) == "channel_axis=-1"
    assert make(8, channel_axis=-1)(x).shape == x.shape
    assert said(lambda: make(16, channel_axis=-1)(x), ValueError) == "channel_axis=1"
    assert make(16, channel_axis=1)(x).shape == x.shape
    one = x[:, :5, :5].copy()
    assert said(lambda: make(4)(one), ValueError) == "x[None]"
    assert make(4)(one[None]).shape == one[None].shape
    with pytest.raises(ValueError, match=r"got \(4, 16, 8\)$"):
        make(6)(x)


def test_one_position_a_channel():
    for shape in ((1, 3, 1, 1), (4, 3, 1), (4, 3)):
        x = np.ones(shape, np.float32)
        assert said(lambda x=x: nz.InstanceNorm(3)(x), ValueError) == "single_value='bias'"
        assert (nz.InstanceNorm(3, single_value="bias")(x) == 0).all()
        assert (F.instance_norm(x, single_value="bias") == 0).all()
    assert said(lambda: nz.GroupNorm(4, 4)(np.ones((1, 4), np.float32)), ValueError) == "fewer groups"
    assert nz.GroupNorm(2, 4)(np.ones((1, 4), np.float32)).shape == (1, 4)


SHARED = [
    lambda: nz.BatchNorm(8), lambda: nz.EMABatchNorm(8), lambda: nz.GhostBatchNorm(8, 2), lambda: nz.BatchRenorm(8),
    lambda: nz.L1BatchNorm(8), lambda: nz.SwitchableNorm(8), lambda: nz.IterNorm(8), lambda: nz.PowerNorm(8),
]  # fmt: skip


@pytest.mark.parametrize("make", SHARED, ids=lambda make: str(make()))
def test_a_read_only_norm_out_of_a_shared_store(make, tmp_path):
    x, norm = X if not isinstance(make(), nz.SwitchableNorm) else np.repeat(X[:, :, None], 5, 2), make()
    for held in (norm.params, norm.buffers):
        for name, a in held.items():
            shared = np.memmap(tmp_path / name, a.dtype, "w+", shape=a.shape or (1,))
            shared[...] = a
            shared.flags.writeable = False
            held[name] = np.asarray(shared).reshape(a.shape)
    for call in (lambda: norm(x), lambda: norm.load_state_dict(norm.state_dict())):
        with pytest.raises(
            ValueError, match=r"got a read-only array; write copy\.deepcopy\(norm\), whose arrays are its own"
        ):
            call()
    own = copy.deepcopy(norm)
    assert own(x).shape == x.shape
    own.load_state_dict(norm.state_dict())
    assert own.eval()(x).shape == norm.eval()(x).shape == x.shape
    mean = np.zeros(8, np.float32)
    mean.flags.writeable = False
    with pytest.raises(ValueError, match=r"got a read-only array; write copies of the arrays, a\.copy\(\)"):
        F.batch_norm(X, mean, np.ones(8, np.float32), training=True)
    F.batch_norm(X, mean.copy(), np.ones(8, np.float32), training=True)


def test_numbers_of_channels_and_momentum():
    x = np.ones((4, 8, 2), np.float32)
    assert said(lambda: nz.BatchNorm(0), ValueError) == "num_features=x.shape[1]"
    assert nz.BatchNorm(num_features=x.shape[1])(x).shape == x.shape
    assert said(lambda: nz.BatchNorm(8, momentum=90), ValueError) == "momentum=0.1"
    nz.BatchNorm(8, momentum=0.1)


def test_misspelled_attributes_and_entries():
    """Nobody would read them: an error, and what was meant."""
    a = np.full(8, 2, np.float32)
    norm = nz.BatchNorm(8)
    for name, right in (("weigth", "weight"), ("biass", "bias"), ("Weight", "weight"), ("gamma", "weight"), ("beta", "bias"),
                        ("running_men", "running_mean"), ("momentun", "momentum"), ("epss", "eps"), ("trainning", "training")):  # fmt: skip
        with pytest.raises(AttributeError, match=rf"BatchNorm\(8\): has no {name} to set; write norm\.{right}$"):
            setattr(norm, name, a)
    for held, name, right in ((norm.params, "gamma", "weight"), (norm.params, "beta", "bias"), (norm.params, "wieght", "weight"),
                              (norm.buffers, "running_mena", "running_mean")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"BatchNorm\(8\): expected one of .*, got '{name}'; write '{right}'"):
            held[name] = a
    assert list(norm.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    norm.weight, norm.params["bias"], norm.momentum, norm.eps = a, a, 0.3, 1e-3  # what there is
    norm.name = "stem"  # what is somebody's own
    assert (nz.BatchNorm(8)(X) != norm(X)).any() and norm.name == "stem"


def test_copies_have_passes_of_their_own():
    norm = nz.LayerNorm(8)
    norm(X)
    first = norm.saved
    for twin in (copy.copy(norm), copy.deepcopy(norm)):
        twin(2 * X)
        assert norm.saved is first and twin.saved is not first
    alike = nz.VirtualBatchNorm(8)  # reference_mean and reference_var
    assert list(copy.deepcopy(alike).buffers) == list(pickle.loads(pickle.dumps(alike)).buffers) == list(alike.buffers)
    assert copy.copy(norm).weight is norm.weight and pickle.loads(pickle.dumps(norm)).saved is None


class OwnNorm(nz.LayerNorm):
    """A norm of somebody's own, with a parameter and attributes of its own."""

    def __init__(self, size):
        super().__init__(size)
        self.params["alpha"] = np.ones(1, np.float32)
        self.scale, self.layers = 2.0, 3


def test_a_norm_of_ones_own_has_its_own_attributes():
    norm = OwnNorm(8)
    norm.scale = 3.0
    for twin in (norm, copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert twin.scale == 3 and list(twin.params) == ["weight", "bias", "alpha"]
        with pytest.raises(AttributeError, match=r"has no weigth to set"):
            twin.weigth = X[0]
