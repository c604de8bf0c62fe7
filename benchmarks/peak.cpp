// Multiply-adds a second of one core: chains of fused multiply-adds that stay in registers.
//   g++ -O3 -march=native -ffp-contract=fast peak.cpp -o peak && ./peak
#include <cstdio>
#include <ctime>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Register __attribute__((vector_size(4 * kLanes)));

double seconds() {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

int main() {
    constexpr int kChains = 12, kTimes = 2000000;
    double best = 0;
    for (int round = 0; round < 9; ++round) {
        Register chain[kChains] = {}, a = chain[0] + 1.0f, b = chain[0] + 0.5f;
        asm volatile("" : "+x"(a), "+x"(b));
        const double start = seconds();
        for (int t = 0; t < kTimes; ++t) {
#pragma GCC unroll 12
            for (int c = 0; c < kChains; ++c) {
                chain[c] = a * chain[c] + b;
                asm volatile("" : "+x"(chain[c]));
            }
        }
        const double rate = double(kLanes) * kChains * kTimes / (seconds() - start);
        best = rate > best ? rate : best;
    }
    std::printf("%.0f\n", best);
}
