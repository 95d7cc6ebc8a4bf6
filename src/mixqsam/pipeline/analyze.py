"""The job of `mixqsam analyze`: a float model and images in, an analysis out."""

from pathlib import Path

from mixqsam.measurements import Analysis
from mixqsam.pipeline.estimate import analysis_stages, announce, measure_speed, sample_prompts
from mixqsam.pipeline.options import AnalysisOptions
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import analyze_model, calibration_samples, load_float
from mixqsam.progress import begin_job, following


def run_analysis(model: str | Path, data: Source, *, options: AnalysisOptions, session: Session) -> Analysis:
    """Analyse a model on images."""
    sam = load_float(model, session)
    samples = calibration_samples(data, options, session)
    speed = measure_speed(sam, prompts=sample_prompts(samples))
    share = -(-len(samples) // session.engine.world)
    stages = analysis_stages(speed, sam, images=share, options=options)
    with following(session.progress):
        announce(stages, (), session)
        begin_job(session.progress, stages)
        return analyze_model(sam, samples, options=options, session=session)
