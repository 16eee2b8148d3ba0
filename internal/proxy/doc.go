// Package proxy is the data plane: a reverse proxy of its own process that
// splits requests between the sides of a route by weight. It owns routes,
// sides, instances, shares, health, affinity, the statistics at the source, and
// the admin API by which a driver moves weights.
//
// It promises:
//   - I15: the weights of a route sum to 100; a change never gives a side more
//     than its ready capacity; where instances fail later, what is over goes to
//     other sides with a weight and room, then to the fallback. Shares and what
//     is unplaced sum to 100 at every instant.
//   - A change is durable before it is served, and in effect when it is
//     answered: no request is sent by the old state any more. No request in
//     flight is cut by it.
//   - A change carries a fencing token and the digest of the state it replaces.
//     A stale one is refused and changes nothing; a repeated one changes nothing.
//   - It is restored from its own State (package wire) exactly.
//   - A safe request is sent again only when no byte of it was sent.
//   - Blocks of statistics never change once they are final.
//   - Neither logs nor metrics hold query strings, headers, cookies or bodies.
//
// It is no cache, no web server, and no control plane: it decides no verdict,
// and goes on as it is when nobody drives it.
package proxy
