// Reads flags as programs do: node clients.mjs URL. It counts users by the
// server SDK, then watches new-checkout by the web SDK, whose provider asks for
// all flags and follows the change stream, and says each value on a line.
import { OpenFeature as Server } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature as Web, ProviderEvents } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { EventSource } from 'eventsource';

const url = process.argv[2];
await Server.setProviderAndWait(new OFREPProvider({ baseUrl: url }));
const server = Server.getClient();
let on = 0;
for (let i = 0; i < 500; i++) {
  if (await server.getBooleanValue('new-checkout', false, { targetingKey: `user-${i}` })) on++;
}
console.log('server', on);

globalThis.EventSource = EventSource;
await Web.setContext({ targetingKey: 'qa-1' });
await Web.setProviderAndWait(new OFREPWebProvider({ baseUrl: url, pollInterval: 0, cacheMode: 'disabled' }));
const web = Web.getClient();
const say = () => console.log('web', web.getBooleanValue('new-checkout', false), web.getStringValue('theme', 'plain'));
web.addHandler(ProviderEvents.ConfigurationChanged, say);
say();
process.stdin.on('end', () => process.exit(0)).resume();
