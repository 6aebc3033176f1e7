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
// shutdown, and learn the time later or never. So no certificate of ours begins
// after its CA does, and verification reads the local clock with one correction:
// a clock that stands before this host's own certificates began is surely wrong
// and counts as that moment. A clock that is ahead is believed; certificates
// issued by [Init] and [Invite] have no end that it could reach. What does end,
// and is past its end, is refused.
//
// # Files
//
//	pki/ca.crt      the cluster's CA
//	pki/ca.key      its key; only where `relevo init` ran
//	pki/node.crt    this host's certificate
//	pki/node.key    its key
//	gossip.key      32 bytes in base64, for the gossip pool
package peer
