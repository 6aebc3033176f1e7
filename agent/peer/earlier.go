package peer

import (
	"path/filepath"
	"slices"
)

// Membership is a host's in a cluster. What is not known of it is "".
type Membership struct {
	Cluster, ClusterID, Node string
	Key                      []byte // [KeySum] of its certificate
}

// Earlier is the membership whose trust files lie in dir; there is one, or what is left of
// one, if so much as a gossip key lies there.
func Earlier(dir, gossipKeyFile string) (m Membership, there bool) {
	there = len(present(append(trustFiles(dir), gossipKeyFile)...)) > 0
	if ca, err := readCert(filepath.Join(dir, caCertFile)); err == nil {
		m.Cluster, m.ClusterID = ca.Subject.CommonName, ClusterID(ca)
	}
	if cert, err := readCert(filepath.Join(dir, nodeCertFile)); err == nil {
		m.Node, m.Key = cert.Subject.CommonName, KeySum(cert)
	}
	return m, there
}

// Present are the trust files that lie in dir, the node's key first: without it no agent starts.
func Present(dir string) []string {
	l := trustFiles(dir)
	slices.Reverse(l)
	return present(l...)
}

// MayAccept is the error with which [Accept] would refuse an invitation for what lies in dir.
func MayAccept(invitation []byte, dir, gossipKeyFile string) error {
	_, id, err := parseInvitation(invitation)
	if err != nil {
		return err
	}
	return id.mayReplace(dir, gossipKeyFile)
}
