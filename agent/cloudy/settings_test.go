package cloudy

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// tree writes files below a new root.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func none(string) string { return "" }

func TestSettings(t *testing.T) {
	ring := Ring{Port: 5000}
	for name, c := range map[string]struct {
		files map[string]string
		env   map[string]string
		want  Settings
	}{
		"nothing": {want: Settings{Device: "eth0", Cloud: "guifi", MicroCloud: "demo", Backends: []string{"memory"}, Ring: ring}},
		"Cloudy": {
			files: map[string]string{
				"etc/cloudy/cloudy.conf":      "#Cloudy config\nSERVER=\"/usr/bin/php\"\nOPTS=\"\"\nPORT=\"7000\"\n# SSHAUTH=1 <- check (http://x)\nSSHAUTH=1\nPRIMARYINTERFACE=\"wlan0\"\n",
				"etc/avahi-ps.conf":           "ERRORS_PLUG=\"errors\"\nEXECUTE_IN=\"memory\"\nSAVE_SERVICE=\"none\"\nDATABASE=\"serf\"\n",
				"etc/avahi-ps-serf.conf":      "SERF_RPC_ADDR=\"127.0.0.1:7373\"\nSERF_BIND=\"5001\"\nSERF_JOIN=\"10.139.40.22:5000\"\n",
				"etc/getinconf-client.conf":   "NETWORK_NAME=sants\nINTERNAL_DEV=tap0\n",
				"etc/cloudy/unrelated-folder": "",
			},
			want: Settings{Device: "wlan0", Chosen: true, Cloud: "guifi", MicroCloud: "sants", Backends: []string{"memory", "serf"}, Ring: Ring{Port: 5001, Join: []string{"10.139.40.22:5000"}}},
		},
		"getinconf's device": {
			files: map[string]string{"etc/getinconf-client.conf": "NETWORK_NAME=sants\nINTERNAL_DEV=tap0\n"},
			want:  Settings{Device: "tap0", Chosen: true, Cloud: "guifi", MicroCloud: "sants", Backends: []string{"memory"}, Ring: ring},
		},
		"getinconf without a name": {
			files: map[string]string{"etc/getinconf-client.conf": "GETINCONF_IGNORE=1\nINTERNAL_DEV=tap0\n"},
			want:  Settings{Device: "eth0", Cloud: "guifi", Backends: []string{"memory"}, Ring: ring},
		},
		"page searches": {
			files: map[string]string{"etc/avahi-ps.conf": "EXECUTE_IN=memory\nDATABASE='serf etcd'\n"},
			env:   map[string]string{"SEARCH_ONLY": "serf"},
			want:  Settings{Device: "eth0", Cloud: "guifi", MicroCloud: "demo", Backends: []string{"serf"}, Ring: ring},
		},
		"page searches with Avahi": {
			files: map[string]string{"etc/avahi-ps.conf": "EXECUTE_IN=none\nDATABASE=serf\n"},
			env:   map[string]string{"SEARCH_ONLY": "avahi"},
			want:  Settings{Device: "eth0", Cloud: "guifi", MicroCloud: "demo", Backends: []string{"memory"}, Ring: ring},
		},
		"an address": {
			files: map[string]string{"etc/cloudy/cloudy.conf": "CLOUD_NAME=my cloud\nexport PUBLIC_IP=10.1.2.3; DEVICE_NAME='the barn' # ours\n"},
			want: Settings{Device: "eth0", Cloud: "my", MicroCloud: "the_barn", PublicIP: netip.MustParseAddr("10.1.2.3"), Backends: []string{"memory"}, Ring: ring,
				Problems: []string{`etc/cloudy/cloudy.conf:1: "cloud" is no KEY=value`}},
		},
		"hostile": {
			files: map[string]string{
				"etc/cloudy/cloudy.conf": "PRIMARYINTERFACE=\"eth0;reboot\"\nPUBLIC_IP='1.2.3.4 | sh'\nCLOUD_NAME=$(reboot)\nDEVICE_NAME=\"a`reboot`\"\nx\nA='open\n" + "if true; then\nB=c\\\n",
				"etc/avahi-ps-serf.conf": "SERF_BIND=abc\nSERF_JOIN=\"a:b:c 10.0.0.1\"\nSERF_INTERFACE=../x\nADVERTISE_IP=there\n",
				"etc/avahi-ps.conf":      "DATABASE=serf > /etc/passwd\n",
			},
			want: Settings{Device: "eth0", Cloud: "guifi", MicroCloud: "demo", Backends: []string{"memory", "serf"}, Ring: Ring{Port: 5000, Join: []string{"10.0.0.1:5000"}},
				Problems: []string{
					"etc/cloudy/cloudy.conf:3: variables and commands are not read; the line is skipped from there",
					"etc/cloudy/cloudy.conf:4: variables and commands are not read; the line is skipped from there",
					`etc/cloudy/cloudy.conf:5: "x" is no KEY=value`,
					"etc/cloudy/cloudy.conf:6: a quotation mark is not closed; the line is skipped from there",
					`etc/cloudy/cloudy.conf:7: "if" is no KEY=value`,
					"etc/cloudy/cloudy.conf:8: a line that goes on is not read; the line is skipped from there",
					"etc/avahi-ps.conf:1: commands are not read; the line is skipped from there",
					`"eth0;reboot" is no name of an interface`,
					`PUBLIC_IP="1.2.3.4 | sh" is no IPv4 address`,
					`"../x" is no name of an interface`,
					`SERF_BIND="abc" is no port`,
					`SERF_JOIN="a:b:c": host or host:port is needed`,
					`ADVERTISE_IP="there" is no IP address`,
				}},
		},
		"too long": {
			files: map[string]string{"etc/avahi-ps.conf": strings.Repeat("A=1\n", maxConf)},
			want: Settings{Device: "eth0", Cloud: "guifi", MicroCloud: "demo", Backends: []string{"memory"}, Ring: ring,
				Problems: []string{"read etc/avahi-ps.conf: it has more than 65536 bytes"}},
		},
	} {
		root := tree(t, c.files)
		got := ReadSettings(root, func(k string) string { return c.env[k] })
		for i, p := range got.Problems {
			got.Problems[i] = strings.ReplaceAll(p, root+"/", "")
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
		}
	}
	// A folder in place of a file is a problem, not the end.
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "etc/avahi-ps.conf"), 0o755)
	if got := ReadSettings(root, none); len(got.Problems) != 1 || len(got.Backends) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestShellWords(t *testing.T) {
	for line, want := range map[string]string{
		`A=b`:               "map[A:b]",
		`A="b c" B='d "e"'`: `map[A:b c B:d "e"]`,
		`A=b"c d"'e f'\ g`:  "map[A:bc de f g]",
		`A="\"x\" \n \\"`:   `map[A:"x" \n \]`,
		`A=1;B=2 ; C=3`:     "map[A:1 B:2 C:3]",
		`A=#no B=x # yes`:   "map[A:#no B:x]",
		`A=`:                "map[A:]",
		`A=b=c`:             "map[A:b=c]",
		"A=1\r":             "map[A:1]",
		`1A=b`:              "map[]",
		`=b`:                "map[]",
		`A =b`:              "map[]",
		``:                  "map[]",
	} {
		r := reader{vars: map[string]string{}}
		if r.parse("f", line); fmt.Sprint(r.vars) != want {
			t.Errorf("%s: %v, want %s", line, r.vars, want)
		}
	}
}

// FuzzSettings: whatever the files say, what callers put into command lines is
// harmless.
func FuzzSettings(f *testing.F) {
	f.Add("PRIMARYINTERFACE=\"wlan0\"\nPUBLIC_IP=10.1.2.3\nDEVICE_NAME='x y' # c\nexport A=b;C=\"d\\\"e\"")
	f.Add("CLOUD_NAME=`x`\nDATABASE=\"a b\nSERF_JOIN='[::1]:5' SERF_BIND=1")
	f.Fuzz(func(t *testing.T, text string) {
		r := reader{vars: map[string]string{}}
		r.parse("f", text)
		s := r.settings()
		for _, word := range []string{s.Device, s.Cloud, s.MicroCloud} {
			if strings.ContainsAny(word, " \t\n\"'`\\<>&;|$*?()/#!~{}[]\x00") || len(word) > 64 {
				t.Errorf("%q", word)
			}
		}
		if len(s.Problems) > 20 || s.Ring.Port < 1 {
			t.Errorf("%+v", s)
		}
	})
}
