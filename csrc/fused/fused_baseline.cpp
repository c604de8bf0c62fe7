#define RC_FUSED fused_baseline
#define RC_FUSED_NAME "baseline"
#include "fused.inc"
