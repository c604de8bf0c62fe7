#define RC_FUSED fused_baseline
#define RC_FUSED_NAME "baseline"
#define RC_NOISE noise_baseline
#include "fused.inc"
