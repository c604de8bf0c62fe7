#define RC_BALL ball_avx512
#include "ball.inc"
