"""Hold saved weights to the tensors of a model, by name and shape, before any of them is copied."""

from collections.abc import Mapping

from torch import Tensor

from wmtp.errors import CheckpointError


def check_same_tensors(saved: Mapping[str, Tensor], ours: Mapping[str, Tensor], complaint: str, remedy: str) -> None:
    """Refuse weights whose names or shapes are not the model's.

    Args:
        saved: 파일의 텐서.
        ours: 모델의 텐서. 모양만 있으면 된다 (meta 장치).
        complaint: 오류 문장의 첫머리. 무엇이 무엇과 다른지.
        remedy: 오류 문장의 끝. 무엇을 하면 되는지.

    Raises:
        CheckpointError: 이름이나 모양이 다를 때. 처음 다른 것을 알려 준다.

    Example:
        >>> import torch
        >>> check_same_tensors({"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1)}, "x is not y", "give y")
        Traceback (most recent call last):
        wmtp.errors.CheckpointError: x is not y: a is (2,) there and (3,) here (2 tensors differ); give y.
    """
    there, here = ({name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (saved, ours))
    different = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            f"{complaint}: {name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here "
            f"({len(different)} tensors differ); {remedy}."
        )
