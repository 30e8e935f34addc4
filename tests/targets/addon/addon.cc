// A native addon in C++ that calls back into JavaScript, and a library without symbols. Node-API is
// declared here as far as it is used: it is the same in every Node.
extern "C" {
typedef void *env_t, *value_t, *info_t;
typedef value_t (*callback_t)(env_t, info_t);
struct module_t {
  int version;
  unsigned flags;
  const char *file;
  value_t (*init)(env_t, value_t);
  const char *name;
  void *data, *reserved[4];
};
void napi_module_register(module_t *);
int napi_create_function(env_t, const char *, unsigned long, callback_t, void *, value_t *);
int napi_get_cb_info(env_t, info_t, unsigned long *, value_t *, value_t *, void **);
int napi_call_function(env_t, value_t, value_t, unsigned long, const value_t *, value_t *);
int napi_create_double(env_t, double, value_t *);
int deep_loop(int n);
}

namespace work {
template <typename T> struct Loop {
  __attribute__((noinline)) T run(T n) const {
    volatile T sum = 0;
    for (T i = 0; i < n; i++) sum = sum + deep_loop(1 << 14);
    return sum;
  }
};
}  // namespace work

// The module is a function: called with a function it calls that, else it works.
static value_t either(env_t env, info_t info) {
  unsigned long count = 1;
  value_t function, receiver, result;
  napi_get_cb_info(env, info, &count, &function, &receiver, nullptr);
  if (count)
    napi_call_function(env, receiver, function, 0, nullptr, &result);
  else
    napi_create_double(env, work::Loop<int>().run(1 << 6), &result);
  return result;
}

static value_t init(env_t env, value_t) {
  value_t function;
  napi_create_function(env, "spin", 4, either, nullptr, &function);
  return function;
}

static module_t module = {1, 0, __FILE__, init, "addon", nullptr, {}};
__attribute__((constructor)) static void enroll() { napi_module_register(&module); }
