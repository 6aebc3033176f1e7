// Package peer is trust between agents and the one port on which they talk: a
// cluster CA, a certificate for every node, TLS 1.3 in both directions, and ALPN
// to tell raft from everything else.
//
// The certificate is the name: a request's sender is the node that its
// certificate names, never what a message claims.
package peer
