package onboard

import (
	"fmt"
	"net/netip"
	"strings"
)

// CandidateYAML is the candidate section of a configuration for what was found; with an
// invalid vip there is none. What could not be found out is left to a person, and then the
// section is a comment.
func (f Found) CandidateYAML(vip netip.Prefix) (text string, complete bool) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# This host can run the control plane: %s.", f.What)
	line("candidate:")
	complete = true
	if f.Kind == K3sServer || f.Kind == K3sAgent {
		line("  # Units, datastore, identity and API of k3s are known: `relevo config show`.")
		line("  control_plane: {kind: k3s}")
	} else {
		complete = f.API.CA != "" && (f.API.Token != "" || f.API.Cert != "")
		line("  control_plane:")
		line("    kind: units")
		line("    # in the order of their start")
		line("    units: [%s]", strings.Join(f.Units, ", "))
		line("    datastore: {kind: kine, path: %q}", f.Datastore)
		line("    # everything that makes two masters the same: CA, keys, tokens")
		line("    identity: [%s]", quoted(f.Identity))
		line("    api:")
		line("      url: %s", f.API.URL)
		line("      ca_file: %q", or(f.API.CA, "/etc/kubernetes/pki/ca.crt"))
		if f.API.Cert != "" {
			line("      client_cert_file: %q", f.API.Cert)
			line("      client_key_file: %q", f.API.Key)
		} else {
			line("      token_file: %q", or(f.API.Token, "/etc/kubernetes/relevo.token"))
		}
	}
	if vip.IsValid() {
		line("  # An unused address of this network, which follows the master. Keep it out of what")
		line("  # the router gives away.")
		line("  vip: {address: %s, port: 6443}", vip)
	}
	if complete {
		return b.String(), true
	}
	return "#" + strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\n", "\n#") + "\n", false
}

func quoted(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(out, ", ")
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
