"""What the program had to guess, or did otherwise than it was asked, in sentences for the user."""

from fractions import Fraction
from pathlib import Path

from personalive.animate.plan import DrivingPlan
from personalive.media.encoding import is_silent
from personalive.media.face_track import Absence
from personalive.media.portrait import TURNS
from personalive.settings import AnimateOptions


def remarks(plan: DrivingPlan, options: AnimateOptions, output: Path) -> tuple[str, ...]:
    """Before the work: each is empty if there is nothing to say."""
    return (
        *(_turned(plan), _shortened(plan, options), _silent(plan, options, output)),
        *(_chosen_face(plan, options), _neutral(plan, options)),
    )


def going_on(frames: int, total: int) -> str:
    """That a stopped job goes on; empty if it begins."""
    return f"going on after {frames} of {total} frames" if frames else ""


def without_face(plan: DrivingPlan) -> str:
    """After the work: in how much of it the driver had no face, and why; empty if it always had one."""
    if plan.track is None or not plan.track.absences:
        return ""
    reasons: dict[Absence, str] = {
        "left": "the face had left the picture",
        "none": "no face was seen",
        "other": "only another person was seen",
    }
    parts = [f"{count} where {text}" for reason, text in reasons.items() if (count := plan.track.count(reason))]
    held = f"{len(plan.track.absences)} of {len(plan.track.boxes)} driving frames"
    return f"the last motion was held in {held}: {', '.join(parts)}"


def _turned(plan: DrivingPlan) -> str:
    quarters = plan.info.quarters
    return f"the driver's face is not upright: the video was turned by {TURNS[quarters]}" if quarters else ""


def _shortened(plan: DrivingPlan, options: AnimateOptions) -> str:
    if plan.info.still:
        return ""
    there = plan.info.frames_at(plan.rate) - plan.skip
    if options.duration is not None:
        wanted = Fraction(options.duration) * plan.rate
        if there < round(wanted):
            return f"the driving video ends {float((wanted - there) / plan.rate):.2f} s before the part does"
        there = round(wanted)
    return f"{plan.frames} of {there} frames used" if plan.frames < there else ""


def _silent(plan: DrivingPlan, options: AnimateOptions, output: Path) -> str:
    if not options.audio:
        return ""
    if plan.sound is None:
        place = plan.motion and plan.motion.sound
        return f"the result has no sound: {place.name}, which has it, is not beside the motion file" if place else ""
    if is_silent(output):
        return "the result has no sound, as such files have none"
    if options.ping_pong:
        return "the result has no sound, as it would be played backwards every second time"
    return ""


def _chosen_face(plan: DrivingPlan, options: AnimateOptions) -> str:
    if plan.track is None or plan.track.most_faces < 2:
        return ""
    box = next(box for box in plan.track.boxes if box is not None)
    place = round(100 * (box[0] + box[2]) / 2 / plan.info.width)
    return (
        f"the driver shows {plan.track.most_faces} faces: the one at {place} % of the width ({options.face}) drives; "
        "for another, set face to left, right or a number"
    )


def _neutral(plan: DrivingPlan, options: AnimateOptions) -> str:
    if plan.neutral is None or options.neutral_frame is not None:
        return ""
    frame = f"frame {plan.neutral}" if plan.neutral >= 0 else "a frame outside the part"
    return f"relative motion is measured from {frame}; for another, set neutral_frame"
