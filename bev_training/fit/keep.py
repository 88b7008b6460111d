"""What a run stores: where it is, its network and its picture. Every rank calls these."""

from __future__ import annotations

from safetensors.torch import save

from bev_training.data.paths import write_whole
from bev_training.fit import out_folder, ranks
from bev_training.fit.card import make_card
from bev_training.fit.curves import draw_curves
from bev_training.fit.prepare import Run
from bev_training.fit.recipes import as_yaml
from bev_training.fit.state import random_states, save_state
from bev_training.objectives.pretraining import PretrainingObjective


def keep_state(run: Run, *, pending: dict[str, float] | None) -> None:
    """Write all that is needed to go on.

    Args:
        run: after a step.
        pending: the table's row of this step, where its validation is still to be done.

    Raises:
        BevError: it cannot be written; the file of before is still there.
    """
    state = run.state
    state.pending, state.weights = pending, run.learner.state()
    state.rng = ranks.gathered(run.fabric, random_states())

    def write() -> None:
        with out_folder.writing(run.out):
            save_state(run.out / out_folder.STATE, state, run.config, run.digest)

    ranks.on_rank_zero(run.fabric, write)


def keep_network(run: Run, name: str) -> None:
    """Write the network with its card.

    Raises:
        BevError: it cannot be written, or holds what is no number.
    """

    def write() -> None:
        card = make_card(
            run.config,
            labels=run.labels,
            origin=run.state.origin,
            command=run.command,
            code=run.state.code,
            step=run.state.step,
            steps=run.steps,
            scores=run.state.scores,
        )
        half = run.config.half_weights
        out_folder.save_network(run.out / name, run.learner.kept, card, half=half)

    ranks.on_rank_zero(run.fabric, write)


def keep_objective(run: Run) -> None:
    """Write the heads that pretraining learned beside the network, for pictures of what it knows;
    the network itself goes on without them.

    Raises:
        BevError: it cannot be written.
    """
    objective, teaching = run.learner.objective, run.learner.teaching
    if not isinstance(objective, PretrainingObjective):
        return
    content = save(
        {
            name: value.detach().cpu().contiguous()
            for name, value in objective.state_dict().items()
        },
        {
            'config': as_yaml(run.config),
            'teacher_channels': str(teaching.teacher.channels if teaching else 0),
        },
    )

    def write() -> None:
        with out_folder.writing(run.out):
            write_whole(run.out / out_folder.OBJECTIVE, content)

    ranks.on_rank_zero(run.fabric, write)


def keep_picture(run: Run) -> None:
    """Draw the learning curve.

    Raises:
        BevError: it cannot be written.
    """
    objective, model = run.learner.objective, run.config.model
    scores, iou = model.classes, True
    if isinstance(objective, PretrainingObjective):
        scores, iou = objective.score_names, False

    def write() -> None:
        with out_folder.writing(run.out):
            draw_curves(
                run.out / out_folder.CURVE,
                run.out / out_folder.TABLE,
                scores,
                f'{model.backbone}, {run.labels}',
                iou=iou,
            )

    ranks.on_rank_zero(run.fabric, write)
