"""The release as an MLflow model: user ids in, lists of movie ids out. Models-from-code: MLflow runs this file to load.

For people's tools only (`mlflow.pyfunc.load_model`, `spark_udf`, `mlflow models serve`); serving reads releases itself.
"""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel

from mlflow_server.release import load
from models.base import slates

K = 20


class Recommendations(PythonModel):
    """Slates as of the release's snapshot, from histories that the release carries."""

    def load_context(self, context: Any) -> None:
        self.release = load(Path(context.artifacts["release"]))

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[list[str]]:
        """For each user id, at most 20 movie ids, best first; a viewer never seen is an empty history."""
        return [self._slate(user_id) for user_id in model_input]

    def _slate(self, user_id: str) -> list[str]:
        release = self.release
        history = release.viewers.history(user_id)
        items = slates(release.model, history, release.live, release.manifest.end_ms, K).items[0]
        return release.catalogue.ids[items[items >= 0]].tolist()


mlflow.models.set_model(Recommendations())
