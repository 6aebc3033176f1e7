// Package peer is trust between agents and the one port on which they talk: a
// cluster CA, a certificate for every node, TLS 1.3 in both directions, and ALPN
// to tell raft from everything else.
//
// The certificate is the name: a request's sender is the node that its
// certificate names, never what a message claims.
//
// # Time
//
// Boards without a clock battery boot in 1970, or at the moment of their last
// shutdown, and learn the time later or never; and a wrong time server puts all of
// them into 2099 at once. So no certificate of ours begins after its CA does, and
// verification reads the local clock with one correction: a clock that stands before
// this host's own certificates began is surely wrong and counts as that moment.
//
// A certificate ends a year after its issue and is renewed long before. Its end counts
// only against a certificate that the [Rules] do not vouch for: a member that all know
// by its key is believed until it is removed, whatever the clocks say. So no clock can
// lock members out, and a board that was switched off for years comes back.
//
// # Joining
//
// See [ProtoJoin] and [Token].
//
// # Files
//
//	pki/ca.crt      the cluster's CA
//	pki/ca.key      its key; only on voters
//	pki/node.crt    this host's certificate
//	pki/node.key    its key
//	pki/join.key    the same before there is a certificate
//	gossip.key      32 bytes in base64, for the gossip pool; while it is rotated several
package peer
