// A real Unleash server for tests: on a port of this host, with tokens that are known.
import unleash from 'unleash-server';

const [port, admin, frontend] = process.argv.slice(2);
await unleash.start({
  db: { connectionString: process.env.DATABASE_URL, ssl: false },
  server: { host: '127.0.0.1', port: Number(port) },
  authentication: {
    type: 'open-source',
    initApiTokens: [
      { tokenName: 'admin', type: 'admin', projects: ['*'], environment: '*', secret: admin },
      { tokenName: 'frontend', type: 'frontend', projects: ['default'], environment: 'development', secret: frontend },
    ],
  },
  frontendApi: { refreshIntervalInMs: 500 },
  telemetry: false,
  versionCheck: { enable: false },
  logLevel: 'error',
});
