"""What a compiled program costs, read off its text: collectives, flops and bytes."""

import pytest

from experiments.planning import hlo_costs
from experiments.planning.hlo import parse

# Four layers in a loop; a gather of their matrices made asynchronous in two ways, a reduce-scatter as
# the TPU compiler writes it, groups in all notations; S(1) is the chip's fast memory.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_start (p.1: bf16[128,1536]) -> (bf16[128,1536], bf16[512,1536]) {
  %p.1 = bf16[128,1536]{1,0} parameter(0)
  %gather.1 = bf16[512,1536]{1,0} all-gather(%p.1), channel_id=5, replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  ROOT %start = (bf16[128,1536]{1,0}, bf16[512,1536]{1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%fused_done (p.2: bf16[128,1536]) -> bf16[512,1536] {
  %p.2 = bf16[128,1536]{1,0} parameter(0)
  %gather.2 = bf16[512,1536]{1,0} all-gather(%p.2), channel_id=5, replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  ROOT %done = bf16[512,1536]{1,0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (p.3: f32[512,64]) -> f32[128,64] {
  %p.3 = f32[512,64]{1,0} parameter(0)
  %reduced = f32[512,64]{1,0} all-reduce(%p.3), channel_id=6, replica_groups=[2,4]<=[8], to_apply=%add
  %where = s32[] constant(0)
  ROOT %part = f32[128,64]{1,0} dynamic-slice(%reduced, %where, %where), dynamic_slice_sizes={128,64}
}

%body (carry: (s32[], bf16[128,1536], f32[512,64])) -> (s32[], bf16[128,1536], f32[512,64]) {
  %carry = (s32[], bf16[128,1536]{1,0}, f32[512,64]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%carry), index=0
  %kernel = bf16[128,1536]{1,0} get-tuple-element(%carry), index=1
  %grad = f32[512,64]{1,0} get-tuple-element(%carry), index=2
  %begun = (bf16[128,1536]{1,0}, bf16[512,1536]{1,0}) fusion(%kernel), kind=kCustom, calls=%fused_start
  %given = bf16[128,1536]{1,0} get-tuple-element(%begun), index=0
  %whole = bf16[512,1536]{1,0} fusion(%given), kind=kCustom, calls=%fused_done
  %x = bf16[4096,512]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="x"
  %y = bf16[4096,1536]{1,0:T(8,128)(2,1)} convolution(%x, %whole), dim_labels=bf_io->bf
  %scattered = f32[128,64]{1,0} fusion(%grad), kind=kCustom, calls=%all-reduce-scatter
  ROOT %next = (s32[], bf16[128,1536]{1,0}, f32[512,64]{1,0}) tuple(%number, %kernel, %grad)
}

%condition (carry.1: (s32[], bf16[128,1536], f32[512,64])) -> pred[] {
  %carry.1 = (s32[], bf16[128,1536]{1,0}, f32[512,64]{1,0}) parameter(0)
  %number.1 = s32[] get-tuple-element(%carry.1), index=0
  %layers = s32[] constant(4)
  ROOT %less = pred[] compare(%number.1, %layers), direction=LT
}

ENTRY %main (p: bf16[128,1536], /*index=1*/q: f32[512,64]) -> f32[] {
  %p = bf16[128,1536]{1,0} parameter(0)
  %q = f32[512,64]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %begin = (s32[], bf16[128,1536]{1,0}, /*index=2*/f32[512,64]{1,0}) tuple(%zero, %p, %q)
  %loop = (s32[], bf16[128,1536]{1,0}, /*index=2*/f32[512,64]{1,0}) while(%begin), condition=%condition, body=%body
  %sent = (bf16[128,1536]{1,0}, bf16[128,1536]{1,0}, u32[]) collective-permute-start(%p), channel_id=7, source_target_pairs={{0,1},{1,0}}
  %received = bf16[128,1536]{1,0} collective-permute-done(%sent)
  %turned = f32[512,64]{1,0} all-to-all(%q), channel_id=8, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  %loss = f32[] constant(1)
  ROOT %mean = f32[] all-reduce(%loss), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""  # noqa: E501


def test_collectives_are_counted_once_each_and_as_often_as_their_loop_runs():
    found = hlo_costs.collectives(parse(TEXT))
    gathered, reduced = 2 * 512 * 1536, 4 * 512 * 64
    assert found == {
        "all-gather": {"count": 4, "bytes": 4 * gathered * 3 // 4},
        "reduce-scatter": {"count": 4, "bytes": 4 * reduced * 3 // 4},
        "all-reduce": {"count": 1, "bytes": 7},  # 2 x 4 bytes x 7 / 8
        "all-to-all": {"count": 1, "bytes": reduced // 2},
        "collective-permute": {"count": 1, "bytes": gathered // 4},
    }


def test_known_trip_counts_go_before_the_condition():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    module = parse(TEXT.replace("body=%body\n", known + "\n"))
    assert module.times["body"] == module.times["fused_start"] == 3
    assert module.times["main"] == 1


def test_products_and_traffic_of_a_loop_count_every_time():
    module = parse(TEXT)
    assert hlo_costs.matmul_flops(module) == 4 * 2 * 4096 * 512 * 1536
    sent = sum(kind["bytes"] for kind in hlo_costs.collectives(module).values())
    # x is in fast memory; the product reads the gathered matrix and writes y. The reduce-scatter
    # writes its part.
    inside = 4 * (2 * 512 * 1536 + 2 * 4096 * 1536 + 4 * 128 * 64)
    assert hlo_costs.traffic(module) == 2 * sent + inside


@pytest.mark.parametrize(
    "line, flops",
    [
        ("%y = f32[8,32] dot(%a, %b), lhs_contracting_dims={1}", 2 * 8 * 16 * 32),
        ("%y = f32[8,32] convolution(%a, %b), dim_labels=bf_io->bf", 2 * 8 * 16 * 32),
        # (16, 8) heads of (1024, 64) times (64, 1024): scores of attention, as a TPU has them.
        (
            "%y = f32[16,8,1024,1024] convolution(%q, %k), window={size=16x8 stride=15x7 "
            "lhs_dilate=16x8}, dim_labels=01bf_01oi->01bf",
            2 * 16 * 8 * 1024 * 1024 * 64,
        ),
        # (16, 1024, 512) times (512, 3, 8, 64), the heads as output positions.
        (
            "%y = f32[16,1024,3,8,64] convolution(%x, %w), window={size=1x3x8 pad=0_0x2_2x7_7 "
            "rhs_reversal=0x1x1}, dim_labels=0bf12_12oi0->0b12f",
            2 * 16 * 1024 * 512 * 3 * 8 * 64,
        ),
    ],
)
def test_flops_of_products_and_of_what_tpu_programs_make_of_them(line, flops):
    module = parse(
        "ENTRY %main (a: f32[8,16]) -> f32[8,32] {\n"
        "  %a = f32[8,16]{1,0} parameter(0)\n"
        "  %b = f32[16,32]{1,0} parameter(1)\n"
        "  %q = bf16[16,8,1024,64]{3,2,1,0} parameter(2)\n"
        "  %k = bf16[16,8,1024,64]{3,2,1,0} parameter(3)\n"
        "  %x = bf16[16,1024,512,1,1]{2,1,0,3,4} parameter(4)\n"
        "  %w = bf16[3,8,64,512,1]{4,3,2,1,0} parameter(5)\n"
        f"  ROOT {line}\n}}\n"
    )
    assert hlo_costs.matmul_flops(module) == flops
