"""The program of the child process that runs llama.cpp, which aborts when it refuses a file.

python llama.py MODEL OUTPUT: token ids as a JSON list on stdin; OUTPUT gets float32, [tokens, vocabulary].
"""

import json
import math
import sys
from array import array


def main() -> None:
    """Write the log-probabilities of all tokens after each prefix of those on stdin."""
    import xllamacpp

    model, output = sys.argv[1:]
    request = json.load(sys.stdin)
    tokens, vocab_size = request["tokens"], request["vocab_size"]
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx = len(tokens) + 2
    settings.n_gpu_layers = 0
    # Without these, keys and values are float16.
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.n_parallel = 1
    settings.warmup = False
    server = xllamacpp.Server(settings)
    with open(output, "wb") as file:
        for end in range(1, len(tokens) + 1):
            answer = server.handle_completions(
                {
                    "prompt": tokens[:end],
                    "n_predict": 1,
                    "n_probs": vocab_size,
                    "temperature": 0.0,
                    "cache_prompt": True,
                    # The answer has no probabilities if the chosen token is an end of text or half a character. So a
                    # bias makes it choose an `a`; the bias is applied after the probabilities are taken.
                    "logit_bias": [["a", 1e6]],
                }
            )
            row = array("f", [math.nan]) * vocab_size
            for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
                row[entry["id"]] = entry["logprob"]
            row.tofile(file)


if __name__ == "__main__":
    main()
