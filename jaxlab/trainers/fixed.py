"""Steps on fixed completions of which a file has what the teacher says."""

import logging
from collections.abc import Sequence

from jax.sharding import Mesh

from jaxlab.data.tasks.types import Example
from jaxlab.losses.types import Needs, Teacher
from jaxlab.rollouts.text import MAX_CHECKED, TextTask
from jaxlab.runtime.mesh import host_batch_slice, put_global
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.trainers import teacher_file
from jaxlab.trainers.distill_settings import Rollouts
from jaxlab.trainers.setup import Rows
from jaxlab.trainers.teacher_file import Said, TeacherFile

logger = logging.getLogger(__name__)


class Fixed:
    """A file seen by a run: completions and the teacher's view of the rows of a step."""

    def __init__(
        self,
        file: TeacherFile,
        text: TextTask,
        tokenizer: Tokenizer,
        needs: Needs,
        rollout: Rollouts,
        mesh: Mesh,
        *,
        temperature: float,
    ):
        """Check that the file is of the run's words and rows, of which the first are looked at.

        Args:
            file: of what the teacher says.
            text: whose training rows.
            tokenizer: of the run.
            needs: of the method.
            rollout: whose completions, and how many of a row.
            mesh: where views are put.
            temperature: that divides the teacher's logits.

        Raises:
            TeacherFileError: it is of something else, or lacks a row.
        """
        self._file, self._text, self._needs = file, text, needs
        self._rollout, self._mesh = rollout, mesh
        file.check(
            tokenizer,
            needs,
            temperature=temperature,
            source=rollout.source,
            samples=rollout.samples,
            max_new_tokens=rollout.max_new_tokens,
            sampled_at=rollout.temperature,
        )
        for i in range(min(text.num_examples("train"), MAX_CHECKED)):
            self._said(*text.prompt(i, "train"))
        about = file.about
        logger.info(
            "teacher: the %d likeliest words by %s, %d rows; %.2g of the mass is others'",
            *(about.top_k, about.model_name, about.rows, about.tail_mass),
        )

    def texts(self, rows: Rows) -> list[list[int]]:
        """Token ids of all completions of the rows, row by row."""
        return [one.tokens.tolist() for row in rows for one in self._said(*row)]

    def view(self, rows: Rows, width: int) -> Teacher | None:
        """What the method asks of the teacher, [B, width, ...] on the mesh; None: nothing.

        Raises:
            TeacherFileError: the file lacks a row.
        """
        if self._needs.teacher is None:
            return None
        said = [one for row in rows for one in self._said(*row)]
        mine = said[host_batch_slice(len(said), self._mesh)]
        placed: Teacher = put_global(teacher_file.view(mine, width, self._needs), self._mesh)
        return placed

    def _said(self, example: Example, prompt: Sequence[int]) -> list[Said]:
        samples = self._rollout.samples
        if self._rollout.source == "data":
            return self._file.said(prompt, self._text.target(example)) * samples
        return self._file.said(prompt)[:samples]
