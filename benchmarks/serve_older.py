"""The older systems' server for benchmarks.serve: one FastAPI process, one float32 CLIPModel, no batches.

    python -m benchmarks.serve_older --model DIR --port 8000

Each request is prepared by CLIPProcessor and goes through the model alone, in the handler: what those systems did.
PyTorch uses every core.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
import uvicorn
from fastapi import FastAPI, Form, UploadFile
from PIL import Image
from transformers import CLIPModel, CLIPProcessor


@dataclass(frozen=True)
class Older:
    model: Path
    """Model directory."""
    port: int = 8000


def application(folder: Path) -> FastAPI:
    """POST /clip/analyze, and GET /healthz/ready once the model is loaded."""
    app = FastAPI()
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)

    @app.get("/healthz/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/clip/analyze")
    async def analyze(
        file: UploadFile, text: Annotated[str, Form()], threshold: Annotated[float, Form()] = 0.25
    ) -> dict[str, float | bool]:
        image = Image.open(io.BytesIO(await file.read())).convert("RGB")
        inputs = processor(text=[text], images=image, return_tensors="pt", padding=True, truncation=True)
        with torch.no_grad():
            found = model(**inputs)
        score = float(found.image_embeds[0] @ found.text_embeds[0])
        return {"is_mismatch": score < threshold, "similarity_score": score, "threshold_used": threshold}

    return app


if __name__ == "__main__":
    config = tyro.cli(Older, description=__doc__)
    uvicorn.run(application(config.model), host="127.0.0.1", port=config.port, log_level="warning")
