"""Stands in for SGLang's CUDA kernels, of which there is no CPU build in the package index.

SGLang imports the names below when it starts on a CPU. It calls none of them while it serves a dense model
without speculative decoding; should that change, the call raises instead of computing something else. No
operator of ``torch.ops.sgl_kernel`` is declared, so that SGLang takes its own implementations in plain torch.
"""

_NAMES = (
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "rotate_input_ids_cpu",
    "verify_tree_greedy_cpu",
)


def _stand_in(name):
    def absent(*arguments, **options):
        raise NotImplementedError(
            f"sgl_kernel.{name} is a compiled kernel that this environment lacks; serve this model on a GPU, "
            "in an environment made by ./scripts/setup_sglang there"
        )

    absent.__name__ = name
    return absent


globals().update({name: _stand_in(name) for name in _NAMES})
