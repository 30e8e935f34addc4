// Becomes a library without symbols but the one that it exports.
static __attribute__((noinline)) int hidden_loop(int n) {
  volatile int x = 1;
  for (int i = 0; i < n; i++) x = x * 31 + i;
  return x;
}

int deep_loop(int n) { return hidden_loop(n) + 1; }
