"""Decide which heads a model gets: those that its folder holds, or new ones, and in which arrangement.

[연구 맥락] 폴더는 헤드를 세 가지로 갖고 온다: wmtp가 저장한 나란한 헤드, 모델이 품고 나온 층(차례 헤드), 또는 없음.
    품고 나온 층을 말없이 버리면 서버에서 낡은 초안을 쓰게 된다. 그래서 무엇을 쓰고 무엇을 두는지 언제나 정하고 말한다.
[동작] 텐서의 이름과 config.json만 읽으므로 느린 일이 시작되기 전에 끝난다. 정한 것은 config에 적는다
    (`mtp_heads`, `mtp_arrangement`, `num_mtp_layers`, `mtp_names`). 체크포인트는 config만으로 모델을 다시 짓는다.
[디버깅] 실행의 첫머리에 나오는 "its … are used"/"left as they are" 한 줄을 본다.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.errors import CheckpointError, ConfigError
from wmtp.models.mimo import check_that_they_are_zero, why_not_mimo
from wmtp.models.native_layout import (
    ShippedLayers,
    as_mimo_reads,
    check_known,
    key_mapping,
    layer_count,
    shipped_layers,
)

DEFAULT_HEADS = {"parallel": 4, "sequential": 2, "recurrent": 4}


@dataclass(frozen=True)
class HeadPlan:
    """Say how a model's heads begin.

    Attributes:
        config: 모델의 config. 헤드의 수와 짜임이 적혀 있다.
        kept: 폴더에서 오는 헤드의 수, head 0까지. 나머지는 새로 시작한다.
        mapping: 폴더의 텐서 이름을 우리 이름으로 바꾸는 정규식들 (`from_pretrained`의 key_mapping).
        said: 한 줄로 알릴 것. 없으면 빈 문자열.
    """

    config: Any
    kept: int
    mapping: dict[str, str]
    said: str

    @property
    def heads(self) -> int:
        """Return H."""
        return self.config.mtp_heads


def plan_heads(
    folder: Path, config: Any, heads: int | None, heads_init: str, arrangement: str | None, key: str = "model.path"
) -> HeadPlan:
    """Decide on heads by what the folder holds and what was asked for.

    Args:
        folder: 모델의 폴더.
        config: 그 config.json.
        heads: H. None이면 폴더에 있는 만큼, 없으면 `DEFAULT_HEADS` (heads_init=saved라면 1).
        heads_init: `wmtp.ranges.HEADS_INIT`의 하나.
        arrangement: `wmtp.ranges.ARRANGEMENTS`의 하나. None이면 폴더에 있는 것의 짜임, 없으면 나란히.
        key: 오류 문장에 쓸 설정의 이름.

    Raises:
        ConfigError: 폴더에 있는 것과 달라고 한 것이 맞지 않을 때, 또는 모르는 이름의 층이 있을 때.
        CheckpointError: config.json이 말하는 층의 수와 텐서가 다를 때.
    """
    config, shipped = deepcopy(config), shipped_layers(folder, config)
    if shipped is not None and shipped.like_mimo:
        check_that_they_are_zero(folder, config, key)
    saved = getattr(config, "mtp_heads", 1)
    ours = saved > 1 and getattr(
        config, "mtp_arrangement", "parallel" if shipped is None or shipped.beside else "sequential"
    )
    native = None if ours == "parallel" else shipped
    there = saved if native is None or ours else 1 + native.count
    asks_for_there = heads_init in ("saved", "native", "auto")
    if heads is None:
        fresh = 1 if heads_init == "saved" else DEFAULT_HEADS[arrangement or "parallel"]
        heads = there if asks_for_there and there > 1 and (ours or heads_init != "saved") else fresh
    if heads_init == "native" and heads > 1 and native is None:
        raise ConfigError(
            f"model.heads_init = native: {folder} holds no multi-token layers; set model.heads_init=copy to start "
            "new heads."
        )
    usable = heads > 1 and asks_for_there and arrangement != "parallel" and (ours or heads_init != "saved")
    if usable and native is not None:
        return _layers_of_folder(folder, config, native, heads, arrangement, saved if ours else None, key)
    if heads_init == "saved":
        check_saved(heads, saved, folder, native is not None)
    if heads > 1 and asks_for_there and ours == "parallel" and arrangement in (None, "parallel"):
        kept = min(heads, saved)
    else:
        kept = 1
    if heads > kept and heads_init in ("saved", "native"):
        raise ConfigError(
            f"model.heads_arrangement = {arrangement}, but the heads of {folder} are {ours or 'sequential'}; set "
            "model.heads_init=copy to start new ones, or model.heads_arrangement=null."
        )
    return _heads_of_wmtp(folder, config, shipped, heads, kept, heads_init, arrangement or "parallel", key)


def check_saved(heads: int, saved: int, folder: Path, native: bool = False) -> None:
    """Refuse more heads than a folder was saved with; say whether it ships layers that would do."""
    if heads > saved:
        way_out = "native to use the layers that it ships with" if native else "copy to start new heads as copies"
        raise ConfigError(
            f"model.heads = {heads}, but {folder} was saved with {saved}; set model.heads_init={way_out}."
        )


def _layers_of_folder(
    folder: Path,
    config: Any,
    shipped: ShippedLayers,
    heads: int,
    arrangement: str | None,
    saved: int | None,
    key: str,
) -> HeadPlan:
    """Use the multi-token layers that lie in the folder, be they its maker's or ours."""
    check_known(shipped, config, key)
    count, layers = shipped.count, "layer" if shipped.count == 1 else "layers"
    if heads != 1 + count and heads != saved and (arrangement != "recurrent" or heads < 1 + count):
        raise ConfigError(
            f"model.heads = {heads}, but {folder} ships {count} multi-token {layers}; set model.heads={1 + count}"
            + (
                ", or model.heads_arrangement=recurrent to use the last one for every token further on."
                * (heads > count)
            )
            + (" or model.heads=1." * (heads <= count))
        )
    if layer_count(config) == 0:
        _add_layers(config, count)
    elif layer_count(config) != count:
        raise CheckpointError(
            f"{key} = {folder}: config.json speaks of {layer_count(config)} multi-token layers and the weights hold "
            f"{count}; copy the model again, or set num_mtp_layers there."
        )
    _fill_kinds(config.get_text_config(), count)
    if shipped.like_mimo:
        as_mimo_reads(config)
    config.mtp_heads, config.mtp_arrangement, config.mtp_names = heads, "sequential", list(shipped.names)
    used = f"{layers} {'is' if count == 1 else 'are'} used as"
    which = "head 1" if heads == 2 else f"heads 1 to {heads - 1}"
    said = f"{key} = {folder}: its {count} multi-token {used} {which} (model.heads_init=copy starts new ones)."
    return HeadPlan(config, heads, key_mapping(config, shipped.names), said)


def _heads_of_wmtp(
    folder: Path,
    config: Any,
    shipped: ShippedLayers | None,
    heads: int,
    kept: int,
    heads_init: str,
    arrangement: str,
    key: str,
) -> HeadPlan:
    """Use parallel heads that wmtp saved, as far as they go, and start the others."""
    saved, new = getattr(config, "mtp_heads", 1), heads > kept
    config.mtp_heads = heads
    for name in ("mtp_arrangement", "mtp_names"):
        if hasattr(config, name):
            delattr(config, name)
    if new and arrangement != "parallel":
        if heads_init == "identity":
            raise ConfigError(
                "model.heads_init = identity: a sequential layer reads two things and cannot hand one on; "
                "set model.heads_init=copy."
            )
        _replace_layers(folder, config, shipped, 1 if arrangement == "recurrent" else heads - 1, key)
        shipped = None
    reason = f"heads_init={heads_init}" if heads_init != "auto" else f"heads_arrangement={arrangement}"
    said = _saying(f"{key} = {folder}", saved, config, kept, reason, shipped)
    return HeadPlan(config, kept, {}, " ".join(filter(None, [said, _unserved(config)])))


def _replace_layers(folder: Path, config: Any, shipped: ShippedLayers | None, count: int, key: str) -> None:
    """Let a config speak of new layers, under the names of those whose place they take, else under MiMo's."""
    if shipped is not None:
        check_known(shipped, config, key)
    if shipped is None or shipped.like_mimo:
        _add_layers(config, count)
        config.num_nextn_predict_layers = count  # where a server looks for it in this layout
        as_mimo_reads(config)
    elif shipped.count != count:
        raise ConfigError(
            f"model.heads_arrangement: {count} new layers cannot take the place of the {shipped.count} that {folder} "
            f"ships; set model.heads={1 + shipped.count}, or model.heads_arrangement=parallel."
        )
    else:
        if layer_count(config) == 0:
            _add_layers(config, count)
        _fill_kinds(config.get_text_config(), count)
        config.mtp_names = list(shipped.names)
    config.mtp_arrangement = "sequential"


def _saying(model: str, saved: int, config: Any, kept: int, reason: str, left_alone: ShippedLayers | None) -> str:
    heads = config.mtp_heads
    if left_alone is not None:
        layers = "layer is" if left_alone.count == 1 else "layers are"
        way_out = "; model.heads_init=native with model.heads=null trains them" if left_alone.known else ""
        return (
            f"{model}: its {left_alone.count or 'own'} multi-token {layers} not trained and left as shipped in the "
            f"export, so drafts by them go stale{way_out}."
        )
    if min(heads, saved) == 1 or reason == "heads_init=saved":  # nothing that the weights alone do not show
        return ""
    if kept == 1:
        return f"{model}: its {saved} saved heads are left out, as model.{reason} says."
    rest = f"; the other {heads - kept} start as copies of the last layer" if kept < heads else ""
    which = f"its {saved}" if kept == saved else f"{kept} of its {saved}"
    return f"{model}: {which} saved heads are used{rest} (model.heads_init=copy starts them anew)."


def _unserved(config: Any) -> str:
    """Say why no server will draft with layers that are new, where that is so."""
    new = getattr(config, "mtp_arrangement", None) == "sequential" and getattr(config, "mtp_names", None) is None
    if not (new and (why := why_not_mimo(config))):
        return ""
    return (
        f"model.heads_arrangement: wmtp drafts with a new layer here, and no server does: {why}, which MiMo, the "
        "layout of new layers, does not have; model.export.heads=drop leaves it out."
    )


def _add_layers(config: Any, count: int) -> None:
    """Let a config speak of `count` layers of the kind of the last one that attends to what came before.

    Raises:
        ConfigError: 이런 층을 지을 수 없는 구조일 때 (RMSNorm이 아닌 것).
    """
    text = config.get_text_config()
    if getattr(text, "rms_norm_eps", None) is None:
        raise ConfigError(
            f"model.heads_arrangement = sequential: {config.model_type} has no RMSNorm, of which transformers builds "
            "multi-token layers; set model.heads_arrangement=parallel."
        )
    text.num_mtp_layers = count
    text.mtp_layer_types = text.mtp_mlp_layer_types = None
    _fill_kinds(text, count)


def _fill_kinds(text: Any, count: int) -> None:
    """Say of which kinds the layers are, where the trunk has several and the config does not say it."""
    for kinds, of_layers in (("layer_types", "mtp_layer_types"), ("mlp_layer_types", "mtp_mlp_layer_types")):
        there = getattr(text, kinds, None)
        if there is not None and getattr(text, of_layers, None) is None:
            last = next((kind for kind in reversed(there) if "linear" not in kind), there[-1])
            setattr(text, of_layers, [last] * count)
