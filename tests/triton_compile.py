"""Compiles the Triton kernels for a Hopper GPU without having one; run by test_kernels_triton_compile.py.

Launches are caught and compiled, as the launch would, to a cubin for compute capability 9.0. Prints one line per kernel and
configuration; exits with an error if one does not compile or needs more shared memory than the device has.

    python tests/triton_compile.py [all]      without "all", only the last configuration of each kernel
"""

from __future__ import annotations

import sys
import time

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

SHARED_MEMORY = 227 * 1024
DTYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
}
EVERY = sys.argv[1:] == ["all"]
compiled: set[tuple] = set()
failures: list[str] = []


def compile_launch(self, *args, grid, warmup=False, num_warps=4, num_stages=3, **kwargs):
    given = dict(zip(self.arg_names, args, strict=False)) | kwargs
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(self.params):
        value = given[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + DTYPES[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            if signature[parameter.name] == "i32" and value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    key = (self.__name__, str(signature), str(constants), num_warps, num_stages)
    if key in compiled:
        return
    compiled.add(key)
    start = time.time()
    sizes = {name: value for name, value in constants.items() if name.isupper()}
    try:
        source = ASTSource(fn=self, signature=signature, constexprs=constants, attrs=attributes)
        options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
        result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    except Exception as error:
        failures.append(f"{self.__name__} {sizes}: {type(error).__name__}: {error}")
        print(failures[-1], flush=True)
        return
    shared = result.metadata.shared
    spills = result.asm["ptx"].count(".local")
    line = f"{self.__name__:18} warps {num_warps} stages {num_stages} shared {shared:6} local {spills} {sizes}"
    print(f"{line} {time.time() - start:.1f} s", flush=True)
    if shared > SHARED_MEMORY:
        failures.append(f"{line}: more than {SHARED_MEMORY} bytes of shared memory")


def compile_configurations(self, *args, **kwargs):
    configs = self.configs if EVERY else self.configs[-1:]
    for config in configs:
        self.fn.run(*args, **kwargs, **config.all_kwargs())


JITFunction.run = compile_launch
Autotuner.run = compile_configurations


def leaf(*shape, dtype=torch.bfloat16):
    return torch.zeros(shape, dtype=dtype, requires_grad=True)


def main() -> int:
    from videogen_kernels.linear_attention.kernel import linear_attention_triton
    from videogen_kernels.modulated_norm.kernel import gated_residual_triton, modulated_norm_triton
    from videogen_kernels.moe.kernel import experts_triton, swiglu_triton
    from videogen_kernels.rotary.kernel import gated_head_norm_triton, norm_rotary_triton

    for width, dtype, block_sizes in (
        (64, torch.bfloat16, (None, 36)),
        (128, torch.bfloat16, (128, 36)),
        (64, torch.float32, (None,)),
    ):
        x = leaf(1, 256, 2, width, dtype=dtype)
        gate = leaf(1, 256, 2, dtype=torch.float32)
        for block_size in block_sizes:
            linear_attention_triton(x, x, x, block_size, gate, x, x, None, None)[0].sum().backward()
        tables = torch.zeros(256, width // 2), torch.zeros(256, width // 2)
        weight = leaf(width, dtype=torch.float32)
        sum(norm_rotary_triton(x, weight, *tables, 1e-6, 0.01, dtype)).sum().backward()
        gated_head_norm_triton(x, weight, x, 1e-6, dtype).sum().backward()
    x, bounds = leaf(1, 256, 2, 64), torch.tensor([0, 100, 256], dtype=torch.int32)
    linear_attention_triton(x, x, x, None, None, None, None, None, bounds)[0].sum().backward()
    for dtype in (torch.bfloat16, torch.float32):
        x, w_in, w_out = leaf(512, 512, dtype=dtype), leaf(8, 512, 512, dtype=dtype), leaf(8, 256, 512, dtype=dtype)
        indices = torch.zeros(512, 2, dtype=torch.int64)
        experts_triton(x, w_in, w_out, indices, leaf(512, 2, dtype=torch.float32)).sum().backward()
        swiglu_triton(x).sum().backward()
        stream, modulation = leaf(1, 512, 512, dtype=torch.float32), leaf(1, 2, 512, dtype=torch.float32)
        modulated_norm_triton(stream, modulation, modulation, None, 1e-6, dtype).sum().backward()
        gated_residual_triton(stream, x[None], modulation).sum().backward()
    print(f"{len(compiled)} compiled, {len(failures)} failed")
    return len(failures)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
