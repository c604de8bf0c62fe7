#define RC_BALL ball_avx2
#include "ball.inc"
