"""What the forwarding core asks of this node's engines, each of whatever serves the model then."""

from __future__ import annotations

from collections.abc import Callable

from models.engine import Failed, Tokens
from overlay.engines import EnginePool
from overlay.errors import EngineFailed, HearthError
from overlay.forwarding import effects as fwd
from overlay.tokenizing import Tokenizing

EngineEffect = fwd.Tokenize | fwd.Remember | fwd.Generate | fwd.CancelGeneration | fwd.CopiesChanged


class EngineEffects:
    """``tokenized`` hears what became of each prompt; all else comes as events of the engines."""

    def __init__(
        self, engines: EnginePool, tokenized: Callable[[bytes, Tokens | HearthError], None]
    ) -> None:
        self._engines = engines
        self._tokenizing = Tokenizing(engines.get, tokenized)

    def carry_out(self, effect: EngineEffect) -> Failed | None:
        """Returns the event that no engine will tell: that the model of a request is gone."""
        if isinstance(effect, fwd.Tokenize):
            self._tokenizing.begin(effect)
            return None
        if isinstance(effect, fwd.CancelGeneration):
            self._tokenizing.cancel(effect.model, effect.request_id)
        engine = self._engines.get(effect.model)
        match effect:
            case fwd.Generate(request=request) if engine is None:
                return Failed(request.request_id, EngineFailed.code, "the model is gone")
            case _ if engine is None:
                pass
            case fwd.Generate(request=request):
                engine.submit(request)
            case fwd.CancelGeneration(request_id=request_id):
                engine.cancel(request_id)
            case fwd.Remember(prompt=prompt, answer=answer):
                engine.remember(prompt, answer)
            case fwd.CopiesChanged(changed=changed):
                engine.copies_changed(changed)
        return None

    def close(self) -> None:
        """Nothing more is told of prompts."""
        self._tokenizing.close()
