#define RC_FUSED fused_avx512
#define RC_FUSED_NAME "avx512"
#define RC_NOISE noise_avx512
#include "fused.inc"
