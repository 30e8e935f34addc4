export interface ServerOptions {
  /** Default: "0.0.0.0". */
  hostname?: string;
  /** Default: 9142; 0 is any that is free. */
  port?: number;
  /** Default: "/metrics". */
  path?: string;
}

export interface ProfilingOptions {
  /** Microseconds between samples. Default: 1000. */
  samplingInterval?: number;
}

/** Serve the metrics; resolves to their address. */
export function startServer(options?: ServerOptions): Promise<string>;
/** Begin to sample; resolves to the address of the metrics. */
export function startProfiling(options?: ProfilingOptions): Promise<string>;
/** Stop sampling and serving. */
export function stopProfiling(): Promise<void>;
/** Begin again at zero. */
export function resetProfiler(): Promise<string>;
/** Resolves to the metrics as Prometheus reads them. */
export function getMetrics(): Promise<string>;
