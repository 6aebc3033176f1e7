package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/agent/lease"
)

func hostN1() (string, error) { return "n1.example.org", nil }

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := parse(strings.NewReader(text), "relevo.yaml", hostN1)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func reference(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The reference file shows the defaults: reading it is the same as reading the
// smallest file with the same values for what has no default.
func TestReferenceShowsDefaults(t *testing.T) {
	got := mustParse(t, reference(t))
	want := mustParse(t, `
cluster: home
candidate:
  control_plane:
    units: [kine.service, kube-apiserver.service]
    datastore: {path: /var/lib/kine/state.db}
    identity: [/etc/kubernetes/pki, /etc/kubernetes/tokens.csv]
    api: {url: "https://127.0.0.1:6443", ca_file: /etc/kubernetes/pki/ca.crt, token_file: /etc/kubernetes/relevo.token}
  vip: {address: 10.77.0.100/24, port: 6443}
`)
	// Absent and [] are the same to the reader of a Config.
	for _, c := range []*Config{got, want} {
		if c.Join == nil {
			c.Join = []string{}
		}
		if c.Cloudy.Join == nil {
			c.Cloudy.Join = []string{}
		}
		if cp := &c.Candidate.ControlPlane; cp.StandbyUnits == nil {
			cp.StandbyUnits = []string{}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("reference.yaml:\n%s\ndefaults:\n%s", got.YAML(), want.YAML())
	}
}

// The reference file has every key, and the schema has no key that it lacks.
func TestReferenceIsComplete(t *testing.T) {
	root, err := document([]byte(reference(t)), "reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	var walk func(path string, n *yaml.Node)
	walk = func(path string, n *yaml.Node) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			p := join(path, n.Content[i].Value)
			have = append(have, p)
			if n.Content[i+1].Kind == yaml.MappingNode {
				walk(p, n.Content[i+1])
			}
		}
	}
	walk("", root)
	if want := allPaths(); !reflect.DeepEqual(have, want) {
		t.Errorf("reference.yaml has\n%q\nthe schema has\n%q", have, want)
	}
}

func TestYAMLReadsBack(t *testing.T) {
	for _, text := range []string{
		reference(t),
		"cluster: home\n",
		`{cluster: "007", node: "true", http: {listen: ""}, join: ["[fe80::1]:99", 10.0.0.1, host.local:7], lease_ttl: 1m, log: {level: debug}}`,
	} {
		c := mustParse(t, text)
		again, err := parse(strings.NewReader(c.YAML()), "again.yaml", hostN1)
		if err != nil {
			t.Errorf("%v\n%s", err, c.YAML())
			continue
		}
		if again.YAML() != c.YAML() {
			t.Errorf("changed:\n%s\nwas:\n%s", again.YAML(), c.YAML())
		}
	}
}

func TestValues(t *testing.T) {
	c := mustParse(t, `
cluster: home
advertise: 10.77.0.1
gossip: {port: 9000}
join: [10.77.0.2, "pi-3.local:8000", "fe80::1"]
http: {listen: ""}
voter: False
`)
	if c.Node != "n1" {
		t.Errorf("node is %q, want the first label of the host name", c.Node)
	}
	if want := []string{"10.77.0.2:9000", "pi-3.local:8000", "[fe80::1]:9000"}; !reflect.DeepEqual(c.Join, want) {
		t.Errorf("join is %q, want %q", c.Join, want)
	}
	if c.HTTP.Listen != "" || c.Voter || c.Advertise.String() != "10.77.0.1" || c.Candidate != nil {
		t.Errorf("got %+v", c)
	}
}

const head = "cluster: home\n"

// errorCases: the file, and the errors in order.
var errorCases = []struct {
	name, file string
	want       []string
}{
	{"empty", "", []string{`relevo.yaml:1:1: is empty: at least`}},
	{"comments only", "# nothing\n\n", []string{`relevo.yaml:1:1: is empty`}},
	{"null", "~\n", []string{`relevo.yaml:1:1: is empty`}},
	{"no cluster", "node: n1\n", []string{`relevo.yaml:1:1: cluster: is missing`}},
	{"not a mapping", "- a\n", []string{`relevo.yaml:1:1: is a list: a section with keys is needed (cluster, node`}},
	{"text", "hello\n", []string{`relevo.yaml:1:1: is the text "hello": a section with keys`}},
	{"two documents", head + "---\ncluster: other\n", []string{`relevo.yaml:2:1: a second document begins here`}},
	{"broken", head + "gossip: {port: 1\n", []string{`relevo.yaml:`}},
	{"broken second", head + "---\n\tx\n", []string{`relevo.yaml:3:2: is not YAML near this line: a tab`}},
	{"tab", head + "gossip:\n\tport: 1\n", []string{`relevo.yaml:3:2: is not YAML near this line: a tab cannot indent`}},
	{"typo", head + "lease_tll: 6s\n", []string{`relevo.yaml:2:1: unknown key "lease_tll": did you mean lease_ttl?`}},
	{"camel", head + "leaseTTL: 6s\n", []string{`relevo.yaml:2:1: unknown key "leaseTTL": did you mean lease_ttl?`}},
	{"dash", head + "gossip: {key-file: /a}\n", []string{`relevo.yaml:2:10: gossip: unknown key "key-file": did you mean key_file?`}},
	{"fence", head + "fence: {command: switch-off}\n", []string{`relevo.yaml:2:18: fence.command: is the text "switch-off": a list of a program and at most 31 arguments is needed`}},
	{"fence path", head + "fence: {command: [plug, off, off]}\n", []string{`relevo.yaml:2:19: fence.command[0]: "plug" is not absolute`}},
	{"fence argument", head + "fence: {command: [/bin/plug, 3]}\n", []string{`relevo.yaml:2:30: fence.command[1]: is the number "3": a text (in quotes) is needed`}},
	{"fence timeout", head + "fence: {timeout: 2m}\n", []string{`relevo.yaml:2:18: fence.timeout: "2m" is too long: 1s to 1m are allowed`}},
	{"access", head + "access: {others: all}\n", []string{`relevo.yaml:2:18: access.others: "all" is not known: allowed is none, status`}},
	{"health", head + "health: {hot_celsius: 20}\n", []string{`relevo.yaml:2:23: health.hot_celsius: 20 is out of range: 40 to 120 are allowed`}},
	{"health float", head + "health: {disk_free_percent: 2.5}\n", []string{`health.disk_free_percent: is the number "2.5": a whole number from 0 to 50 is needed`}},
	{"health probe", head + "health: {probe: 1m}\n", []string{`health.probe: "1m" is too short: 10m to 24h are allowed`}},
	{"kubernetes", head + "kubernetes: {services: some, namespaces: [Lan], selector: 'a=b=c', node: 'N 1'}\n", []string{
		`kubernetes.services: "some" is not known`, `kubernetes.namespaces[0]: "Lan" is no namespace`, `kubernetes.selector: "a=b=c" is no label selector`, `kubernetes.node: "N 1" can be no Node's name`}},
	{"kubernetes api", head + "kubernetes: {api: {url: 'https://10.0.0.1:6443'}}\n", []string{`kubernetes.api.ca_file: is missing`, `kubernetes.api.token_file: is missing`}},
	{"kubernetes api without url", head + "kubernetes: {api: {token_file: /t}}\n", []string{`kubernetes.api.url: is missing`}},
	{"kubernetes conditions", head + "kubernetes: {conditions: true}\n", []string{`kubernetes.conditions: needs kubernetes.api`}},
	{"health key", head + "health: {hot: 70}\n", []string{`relevo.yaml:2:10: health: unknown key "hot": known here are disk_free_percent,`}},
	{"place", head + "vip: {address: 1.2.3.4/8}\n", []string{`relevo.yaml:2:1: unknown key "vip": it belongs into a section, as candidate.vip`}},
	{"unknown", head + "colour: red\n", []string{`relevo.yaml:2:1: unknown key "colour": known here are cluster, node,`}},
	{"twice", head + "voter: true\nvoter: false\n", []string{`relevo.yaml:3:1: voter: is given twice: first at line 2`}},
	{"merge", head + "a: &x {port: 1}\ngossip: {<<: *x}\n", []string{`:2:1: unknown key "a"`, `:3:10: gossip: unknown key "<<"`}},
	{"alias", "cluster: &x home\nnode: *x\n", []string{`:1:10: cluster: has an anchor (&x)`, `:2:7: node: is an alias (*x)`}},
	{"tag", "cluster: !!str home\n", []string{`:1:10: cluster: has a tag (!!str)`}},
	{"list key", head + "? [a]\n: b\n", []string{`:2:3: a key must be a word, not a list`}},
	{"no value", head + "gossip:\n", []string{`relevo.yaml:2:1: gossip: has no value`}},
	{"section is text", head + "gossip: 7946\n", []string{`:2:9: gossip: is the number "7946": a section with keys is needed (port, key_file)`}},
	{"several at once", "cluster: Home\nlease_ttl: 2s\nvoter: 1\nx: y\n", []string{
		`relevo.yaml:1:10: cluster: "Home": only a-z`,
		`relevo.yaml:2:12: lease_ttl: "2s" is too short: 3s to 1m are allowed`,
		`relevo.yaml:3:8: voter: is the number "1": true or false is needed`,
		`relevo.yaml:4:1: unknown key "x"`,
	}},
	{"number as name", "cluster: 12\n", []string{`cluster: is the number "12": a name is needed (as text: "12")`}},
	{"long name", "cluster: " + strings.Repeat("a", 64) + "\n", []string{`cluster: "aaaa`}},
	{"control character", `cluster: "a\x1b[31m"`, []string{`cluster: "a\x1b[31m" contains a control character`}},
	{"no unit", head + "lease_ttl: 6\n", []string{`:2:12: lease_ttl: "6" has no unit: write 6s, for instance; 3s to 1m are allowed`}},
	{"bad duration", head + "max_lag: soon\n", []string{`max_lag: "soon" is not a duration`}},
	{"long duration", head + "max_lag: 2h\n", []string{`max_lag: "2h" is too long: 1s to 1h are allowed`}},
	{"negative", head + "max_failovers: -1\n", []string{`max_failovers: -1 is out of range: 0 to 100`}},
	{"huge", head + "max_failovers: 99999999999999999999\n", []string{`max_failovers: `}},
	{"float", head + "gossip: {port: 1.5}\n", []string{`gossip.port: is the number "1.5": a whole number from 1 to 65535`}},
	{"yes", head + "voter: yes\n", []string{`voter: is the text "yes": true or false is needed`}},
	{"port", head + "peer: {port: 70000}\n", []string{`:2:14: peer.port: 70000 is out of range: 1 to 65535 are allowed`}},
	{"same port", head + "peer: {port: 7946}\n", []string{`:2:14: peer.port: 7946 is both gossip.port and peer.port`}},
	{"same port, other way", head + "gossip: {port: 7947}\n", []string{`:2:16: gossip.port: 7947 is both`}},
	{"http port", head + "http: {listen: '0.0.0.0:7946'}\n", []string{`http.listen: port 7946 is taken`}},
	{"listen", head + "http: {listen: ':7948'}\n", []string{`http.listen: ":7948" is not an address to listen on`}},
	{"relative", head + "data_dir: relevo\n", []string{`data_dir: "relevo" is not absolute`}},
	{"unclean", head + "data_dir: /var/lib/../x/\n", []string{`data_dir: "/var/lib/../x/" is not in its shortest form: write /var/x`}},
	{"root", head + "data_dir: /\n", []string{`data_dir: "/" is the whole file system`}},
	{"socket", head + "socket: /" + strings.Repeat("s", 101) + "\n", []string{`socket: "/sss`}},
	{"backend", head + "mdns: {backend: bonjour}\n", []string{`mdns.backend: "bonjour" is not known: allowed is auto, avahi, zeroconf, off`}},
	{"backend is bool", head + "mdns: {backend: true}\n", []string{`mdns.backend: is the truth value "true": one of auto`}},
	{"level", head + "log: {level: loud}\n", []string{`log.level: "loud" is not known: allowed is debug, info, warn, error`}},
	{"join", head + "join: [a b, 'x:0', 'x:1', 'x:1', ~, {}, '-a', 'x:01']\n", []string{
		`join[0]: "a b" is not a host`, `join[1]: "x:0": port "0" is out of range`, `join[3]: "x:1" is in the list twice`,
		`join[4]: is empty: a text is needed`, `join[5]: is a section: a text`, `join[6]: "-a" is not a host`, `join[7]: "x:01": port "01"`,
	}},
	{"join twice by default", head + "join: [x, 'x:7946']\n", []string{`:2:11: join[1]: "x:7946" is in the list twice`}},
	{"join is text", head + "join: x\n", []string{`join: is the text "x": a list is needed, such as [a, b]`}},
	{"interface", head + "interface: much-too-long-name\n", []string{`interface: "much-too-long-name" is not a name for a network interface`}},
	{"advertise", head + "advertise: 0.0.0.0\n", []string{`advertise: "0.0.0.0" is not the address of one host`}},
	{"advertise name", head + "advertise: pi\n", []string{`advertise: "pi" is not an IP address`}},
	{"candidate alone", head + "candidate: {}\n", []string{`:2:12: candidate.control_plane: is missing`}},
	{"control plane alone", head + "candidate: {control_plane: {}}\n", []string{
		`candidate.control_plane.units: is missing`, `candidate.control_plane.datastore: is missing`, `candidate.control_plane.api: is missing`}},
	{"vip alone", candidate1("vip: {}"), []string{`candidate.vip.address: is missing`, `candidate.vip.port: is missing`}},
	{"vip network", candidate1("vip: {address: 10.0.0.0/24, port: 1}"), []string{`candidate.vip.address: "10.0.0.0/24" is the network itself`}},
	{"vip broadcast", candidate1("vip: {address: 10.0.1.255/23, port: 1}"), []string{`candidate.vip.address: "10.0.1.255/23" is the network itself or its broadcast`}},
	{"vip bare", candidate1("vip: {address: 10.0.0.9, port: 1}"), []string{`candidate.vip.address: "10.0.0.9": an IPv4 address with the length`}},
	{"vip six", candidate1("vip: {address: 'fd00::1/64', port: 1}"), []string{`candidate.vip.address: "fd00::1/64": an IPv4 address`}},
	{"vip multicast", candidate1("vip: {address: 224.0.0.1/24, port: 1}"), []string{`is not an address that a host of a LAN can have`}},
	{"vip is own", candidate1("vip: {address: 10.0.0.9/24, port: 1}") + "advertise: 10.0.0.9\n", []string{`candidate.vip.address: 10.0.0.9 is this host's own address`}},
	{"identity", candidate1("") + "    identity: [/etc, rel, /srv/a, /srv/a/b, /var/lib/relevo/x, /var/lib/kine]\n", []string{
		`identity[0]: "/etc" would copy this host's own keys`, `identity[0]: "/etc" would copy relevo's own key`,
		`identity[1]: "rel" is not absolute`, `identity[2]: "/srv/a/b" lies in "/srv/a"`, `identity[3]: "/var/lib/relevo/x" would copy relevo's own state`,
		`identity[4]: "/var/lib/kine" would copy the datastore`}},
	{"credentials", candidateAPI("client_cert_file: /c"), []string{`api.client_cert_file: has no key`}},
	{"credentials key", candidateAPI("client_key_file: /c"), []string{`api.client_key_file: has no certificate`}},
	{"credentials both", candidateAPI("client_key_file: /c, client_cert_file: /d, token_file: /e"), []string{`api.token_file: is given beside client_cert_file`}},
	{"no credentials", candidateAPI("grace: 5s"), []string{`:6:10: candidate.control_plane.api.token_file: is missing: token_file, or client_cert_file`}},
	{"no ca", strings.Replace(candidate1(""), "ca_file: /k/ca.crt, ", "", 1), []string{`candidate.control_plane.api.ca_file: is missing`}},
	{"url http", candidateURL("http://10.0.0.1:80"), []string{`api.url: "http://10.0.0.1:80": https is needed`}},
	{"url path", candidateURL("https://a/b"), []string{`only scheme, host and port are allowed`}},
	{"url user", candidateURL("https://u:p@a"), []string{`only scheme, host and port are allowed`}},
	{"url port", candidateURL("https://a:0"), []string{`port "0" is out of range`}},
	{"url none", candidateURL("a:1"), []string{`"a:1" is not a URL`}},
	{"units", strings.Replace(candidate1(""), "[a.service]", "[a, relevo.service, b@.service, 'x y.service', -.service, b.timer]", 1), []string{
		`units[0]: "a": the name of a systemd service is needed`, `units[1]: "relevo.service" is the agent itself`, `units[2]: "b@.service" is a template`,
		`units[3]: "x y.service" is not a name for a systemd service: ' '`, `units[4]: "-.service" is not a name`, `units[5]: "b.timer": the name of a systemd service`}},
	{"no units", strings.Replace(candidate1(""), "[a.service]", "[]", 1), []string{`candidate.control_plane.units: is empty: at least one service`}},
	{"standby unit", candidate1("") + "    standby_units: [a.service]\n", []string{`standby_units[0]: "a.service" is in units as well`}},
	{"kind", candidate1("") + "    kind: k0s\n", []string{`control_plane.kind: "k0s" is not known: allowed is units, k3s`}},
	{"units with data_dir", candidate1("") + "    data_dir: /x\n", []string{`control_plane.data_dir: is of kind k3s, and this is kind units`}},
	{"units without a path", strings.Replace(candidate1(""), "path: /var/lib/kine/x.db", "kind: kine", 1), []string{`:5:16: candidate.control_plane.datastore.path: is missing`}},
	{"k3s identity", k3s("identity: [/var/lib/rancher/k3s/server/tls, /etc/rancher, /var/lib/rancher/k3s/agent/etc]"), []string{
		`control_plane.identity: lacks /var/lib/rancher/k3s/server/token`,
		`identity[1]: "/etc/rancher" would copy the password of this node`, `identity[1]: "/etc/rancher" would copy what is said of this node alone`,
		`identity[2]: "/var/lib/rancher/k3s/agent/etc" would copy this node's own certificates`}},
	{"k3s data_dir", k3s("data_dir: rancher"), []string{`control_plane.data_dir: "rancher" is not absolute`}},
	{"k3s no units", k3s("units: []"), []string{`control_plane.units: is empty`}},
	{"k3s agent twice", k3s("standby_units: [k3s.service]"), []string{`standby_units[0]: "k3s.service" is in units as well`}},
	{"k3s two credentials", k3s("api: {token_file: /t, client_cert_file: /c, client_key_file: /k}"), []string{`api.token_file: is given beside client_cert_file`}},
	{"relevo in k3s", "data_dir: /var/lib/rancher/k3s/server/tls/relevo\n" + k3s(""), []string{`identity[2]: "/var/lib/rancher/k3s/server/tls" would copy relevo's own state`}},
}

// k3s is a file with a candidate of kind k3s, and one more line of its control plane.
func k3s(more string) string {
	s := head + "candidate:\n  vip: {address: 10.0.0.9/24, port: 6443}\n  control_plane:\n    kind: k3s\n"
	if more != "" {
		s += "    " + more + "\n"
	}
	return s
}

// Two words are enough for a k3s server as its installer makes it.
func TestK3sIsDerived(t *testing.T) {
	cp := mustParse(t, k3s("")).Candidate.ControlPlane
	const dir = "/var/lib/rancher/k3s/server/"
	want := ControlPlane{
		Kind: KindK3s, DataDir: "/var/lib/rancher/k3s", Units: []string{"k3s.service"}, StandbyUnits: []string{"k3s-agent.service"},
		Datastore: Datastore{DatastoreKine, dir + "db/state.db"},
		Identity:  []string{dir + "token", dir + "agent-token", dir + "tls", dir + "cred", dir + "manifests"},
		API: API{URL: "https://127.0.0.1:6443", CAFile: dir + "tls/server-ca.crt", ClientCertFile: dir + "tls/client-admin.crt", ClientKeyFile: dir + "tls/client-admin.key",
			StartTimeout: 2 * time.Minute, Grace: 30 * time.Second},
	}
	if !reflect.DeepEqual(cp, want) {
		t.Errorf("%+v\nwant\n%+v", cp, want)
	}
	if got := cp.MayMiss(); !reflect.DeepEqual(got, []string{dir + "agent-token", dir + "manifests"}) {
		t.Errorf("may be missing: %q", got)
	}
	for _, f := range cp.Needed() {
		if !within(f, dir+"token") && !within(f, dir+"tls") {
			t.Errorf("%s is needed and not part of the identity", f)
		}
	}
	c := mustParse(t, strings.Replace(k3s("data_dir: /mnt/k3s\n    units: [k3s-server.service]\n    standby_units: []\n    api: {token_file: /t, start_timeout: 1m}"), "port: 6443", "port: 7443", 1))
	cp = c.Candidate.ControlPlane
	if cp.Datastore.Path != "/mnt/k3s/server/db/state.db" || cp.Units[0] != "k3s-server.service" || len(cp.StandbyUnits) != 0 ||
		cp.API.URL != "https://127.0.0.1:7443" || cp.API.ClientCertFile != "" || cp.API.StartTimeout != time.Minute {
		t.Errorf("%+v", cp)
	}
	if again := mustParse(t, c.YAML()); again.YAML() != c.YAML() {
		t.Errorf("changed:\n%s\nwas:\n%s", again.YAML(), c.YAML())
	}
}

// candidate1 is a file with a whole candidate; more is one more line of its section.
func candidate1(more string) string {
	s := head + "candidate:\n"
	if more != "" {
		s += "  " + more + "\n"
	}
	s += "  control_plane:\n    units: [a.service]\n    datastore: {path: /var/lib/kine/x.db}\n    api: {url: 'https://127.0.0.1:6443', ca_file: /k/ca.crt, token_file: /k/token}\n"
	return s
}

func candidateAPI(more string) string {
	return strings.Replace(candidate1(""), "token_file: /k/token", more, 1)
}

func candidateURL(u string) string {
	return strings.Replace(candidate1(""), "https://127.0.0.1:6443", u, 1)
}

func TestErrors(t *testing.T) {
	for _, c := range errorCases {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := parse(strings.NewReader(c.file), "relevo.yaml", hostN1)
			if err == nil {
				t.Fatalf("accepted:\n%s\nas:\n%s", c.file, cfg.YAML())
			}
			if cfg != nil {
				t.Error("a Config came with the error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("got %d errors, want %d:\n%v", len(lines), len(c.want), err)
			}
			for i, want := range c.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("error %d is\n  %s\nwant\n  %s", i, lines[i], want)
				}
				if !strings.HasPrefix(lines[i], "relevo.yaml:") {
					t.Errorf("error %d has no place: %s", i, lines[i])
				}
			}
		})
	}
}

func TestCandidateHelperIsValid(t *testing.T) {
	mustParse(t, candidate1("vip: {address: 10.0.0.9/24, port: 6443}"))
	mustParse(t, candidateURL("http://127.0.0.1:8080"))
	mustParse(t, strings.Replace(candidateURL("http://localhost:80"), ", ca_file: /k/ca.crt, token_file: /k/token", "", 1))
	mustParse(t, candidateAPI("client_key_file: /c, client_cert_file: /d"))
}

// The bounds of lease_ttl stand in two places: packages in agent/ do not import
// each other.
func TestLeaseBounds(t *testing.T) {
	for _, ttl := range []time.Duration{lease.MinTTL, lease.MaxTTL} {
		if c := mustParse(t, head+"lease_ttl: "+ttl.String()+"\n"); c.LeaseTTL != ttl {
			t.Errorf("lease_ttl is %v, want %v", c.LeaseTTL, ttl)
		}
	}
	for _, ttl := range []time.Duration{lease.MinTTL - 1, lease.MaxTTL + 1} {
		if _, err := parse(strings.NewReader(head+"lease_ttl: "+ttl.String()+"\n"), "relevo.yaml", hostN1); err == nil {
			t.Errorf("lease_ttl %v was accepted", ttl)
		}
	}
}

func TestNodeFromHost(t *testing.T) {
	for host, want := range map[string]string{
		"Pi-One.local": "", "localhost": "is called \"localhost\"", "bad_name": "only a-z", "": "1 to 63 characters",
	} {
		_, err := parse(strings.NewReader(head), "relevo.yaml", func() (string, error) { return host, nil })
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "relevo.yaml: node: is not given")) {
			t.Errorf("host %q: %v", host, err)
		}
	}
	_, err := parse(strings.NewReader(head+"node: ''\n"), "relevo.yaml", func() (string, error) { return "", errors.New("no") })
	if err == nil || !strings.HasPrefix(err.Error(), "relevo.yaml:2:7: node: ") {
		t.Errorf("got %v", err)
	}
}

func TestBounds(t *testing.T) {
	if _, err := Parse(strings.NewReader(head+strings.Repeat("# long\n", maxSize)), "relevo.yaml"); err == nil || !strings.Contains(err.Error(), "larger than 64 KiB") {
		t.Errorf("got %v", err)
	}
	_, err := parse(strings.NewReader(head+strings.Repeat("x: 1\n", 1000)), "relevo.yaml", hostN1)
	if n := strings.Count(err.Error(), "\n") + 1; n != maxErrors+1 || !strings.HasSuffix(err.Error(), "and 950 more errors") {
		t.Errorf("%d errors, the end is %q", n, err.Error()[len(err.Error())-40:])
	}
}

func TestLoad(t *testing.T) {
	p := filepath.Join(t.TempDir(), "relevo.yaml")
	if _, err := Load(p); err == nil || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "relevo init") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(p, []byte("cluster: home\nnode: n9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(p); err != nil || c.Node != "n9" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(reference(f))
	for _, c := range errorCases {
		f.Add(c.file)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(strings.NewReader(text), "f", hostN1)
		if err != nil {
			return
		}
		again, err := parse(strings.NewReader(c.YAML()), "again", hostN1)
		if err != nil {
			t.Fatalf("own output refused: %v\n%s", err, c.YAML())
		}
		if again.YAML() != c.YAML() {
			t.Fatalf("not the same again:\n%s\n%s", c.YAML(), again.YAML())
		}
	})
}
