// A whole layer as one job of the pool: the phases of the five ops with one barrier between them, activations handed
// from the gated product to the next as int8 records, and the next weights fetched while threads wait for each other.
#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace dunlin::kernels::cpu {

Traffic CpuOps::Layer(const LayerArgs<Matrix>& args, const AttentionShape& shape, const BatchView& batch,
                      const PagedKvView& kv, const Activations& act, int64_t* saturated) {
  AttentionInputCall input{args.input, shape, batch, kv, act.x, act.q};
  CheckAttentionInput(input);
  CHECK_EQ(args.w_gate->rows, args.w_up->rows);
  attention_.Plan(shape, batch, kv.layout);
  const AttentionCall attention{shape, batch, kv, args.input.layer, act.q, act.attn};
  // After attention, rows that nobody reads later are left out.
  const int32_t* needed = args.needed_rows.has_value() ? args.needed_rows->data() : nullptr;
  const int rows = args.needed_rows.has_value() ? static_cast<int>(args.needed_rows->size()) : batch.num_rows;
  const Matrix* const wo[1] = {args.wo};
  const Matrix* const w_ffn[2] = {args.w_gate, args.w_up};
  const Matrix* const w_down[1] = {args.w_down};
  // The gated product's blocks are whole groups of the records.
  const bool handed_on = IsQuantized(args.w_down->kind) && args.w_down->cols % kBlockRows == 0;
  Products::Output hidden;
  if (handed_on) hidden = products_.MakeOutput(*args.w_down);

  pool_.Run([&](ThreadPool::Context& context) {
    RunAttentionInput(context, 0, &input);
    context.Barrier();
    attention_.Run(attention, context, 4);
    if (rows == 0) return;
    products_.PrefetchShare(context, wo);
    context.Barrier();
    RunProjectAdd(context, 8, *args.wo, products_.Prepare(context, 7, wo, {act.attn, needed}, rows), needed, act.x);
    products_.PrefetchShare(context, w_ffn);
    context.Barrier();
    RunGatedFfn(context, 10, *args.w_gate, *args.w_up, args.activation,
                products_.Prepare(context, 9, w_ffn, {act.x, needed, args.ffn_norm, args.input.eps}, rows), act.ffn,
                handed_on ? &hidden : nullptr);
    products_.PrefetchShare(context, w_down);
    context.Barrier();
    RunProjectAdd(
        context, 12, *args.w_down,
        handed_on ? Products::AsInputs(hidden, rows) : products_.Prepare(context, 11, w_down, {act.ffn}, rows), needed,
        act.x);
  });
  *saturated += input.saturated.load(std::memory_order_relaxed);
  Traffic traffic = AttentionInputTraffic(input);
  traffic += AttentionTraffic(attention);
  if (rows == 0) return traffic;
  traffic += ProjectAddTraffic(*args.wo, rows);
  traffic += GatedFfnTraffic(*args.w_gate, *args.w_up, rows);
  traffic += ProjectAddTraffic(*args.w_down, rows);
  return traffic;
}

}  // namespace dunlin::kernels::cpu
