package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"relevo.dev/relevo/avahi"
)

// Services are written as the API shows them, so that the conversion is tested, too.
func service(t testing.TB, text string) Service {
	t.Helper()
	var o apiService
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	sv, ok := convertService(&o)
	if !ok {
		t.Fatalf("no Service: %s", text)
	}
	return sv
}

const nodePort = `{"metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"relevo.dev/publish": "true"}},
	"spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}]}}`

// edited replaces pieces of the Service above, in pairs.
func edited(t testing.TB, pairs ...string) Service {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(nodePort, pairs[i]) {
			t.Fatalf("%q is not in the template", pairs[i])
		}
	}
	return service(t, strings.NewReplacer(pairs...).Replace(nodePort))
}

// alive gives a Service an endpoint on a node for every port.
func alive(sv Service, nodes ...string) Endpoints {
	e := Endpoints{Service: sv.key(), Nodes: append([]string{}, nodes...)}
	if len(nodes) == 0 {
		e.Nodes = []string{""}
	}
	for _, p := range sv.Ports {
		e.Ports = append(e.Ports, p.Name)
	}
	return e
}

func view(svs ...Service) View {
	v := View{Services: svs}
	for _, sv := range svs {
		v.Endpoints = append(v.Endpoints, alive(sv))
	}
	return v
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

var (
	annotated = Settings{Mode: Annotated}
	all       = Settings{Mode: All}
	atVIP     = Place{Node: "n1", Addr: ip("192.168.1.11"), VIP: ip("192.168.1.100"), VIPHost: "home-kubernetes"}
)

// show writes offers one a line: ID: name|type host addresses port texts
func show(offers []Offer) string {
	var b strings.Builder
	for _, o := range offers {
		var at []string
		for _, a := range o.Addrs {
			at = append(at, a.String())
		}
		fmt.Fprintf(&b, "%s: %s|%s %s %s %d", o.ID, o.Name, o.Type, o.Host, strings.Join(at, ","), o.Port)
		if len(o.TXT) > 0 {
			fmt.Fprintf(&b, " %q", o.TXT)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestTranslate(t *testing.T) {
	nodes := []Node{{Name: "n2", Internal: []netip.Addr{ip("192.168.1.12")}, Ready: true}, {Name: "n1", Internal: []netip.Addr{ip("192.168.1.11")}, External: []netip.Addr{ip("203.0.113.1")}, Ready: true}}
	withNodes := func(v View) View { v.Nodes = nodes; return v }
	const lb = `"type": "LoadBalancer"`
	status := func(ips string) []string {
		return []string{`"type": "NodePort"`, lb, `80, "nodePort": 30080}]}}`, `80, "nodePort": 30080}]}, "status": {"loadBalancer": {"ingress": [` + ips + `]}}}`}
	}
	for name, c := range map[string]struct {
		view View
		set  Settings
		at   Place
		want string
	}{
		"node port at the virtual IP":       {view(edited(t)), annotated, atVIP, "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"node port, nothing known of nodes": {view(edited(t)), annotated, Place{}, "default/web/http: web|_http._tcp   30080\n"},
		"node port without a virtual IP":    {withNodes(view(edited(t))), annotated, Place{Node: "n2"}, "default/web/http: web|_http._tcp n1-kube 192.168.1.11 30080\n"},
		"node port, master runs no kubelet": {withNodes(view(edited(t))), annotated, Place{Node: "n9", VIP: atVIP.VIP, VIPHost: "v"}, "default/web/http: web|_http._tcp n1-kube 192.168.1.11 30080\n"},
		"node known by its address":         {withNodes(view(edited(t))), annotated, Place{Node: "pi", Addr: ip("192.168.1.12"), VIP: atVIP.VIP, VIPHost: "v"}, "default/web/http: web|_http._tcp v 192.168.1.100 30080\n"},
		"the first node is off, says Serf":  {withNodes(view(edited(t))), annotated, Place{Node: "n2", Down: map[netip.Addr]bool{ip("192.168.1.11"): true}}, "default/web/http: web|_http._tcp n2-kube 192.168.1.12 30080\n"},
		"every node is off":                 {withNodes(view(edited(t))), annotated, Place{Down: map[netip.Addr]bool{ip("192.168.1.11"): true, ip("192.168.1.12"): true}}, ""},
		"access public":                     {withNodes(view(edited(t, `"relevo.dev/publish": "true"`, `"relevo.dev/publish": "true", "external-dns.alpha.kubernetes.io/access": "public"`))), annotated, Place{}, "default/web/http: web|_http._tcp n1-kube 203.0.113.1 30080\n"},
		"IPv6 only is not at an IPv4 VIP":   {withNodes(view(edited(t, `"clusterIP"`, `"ipFamilies": ["IPv6"], "clusterIP"`))), annotated, atVIP, ""},
		"local: only where an endpoint is":  {View{Services: []Service{edited(t, `"clusterIP"`, `"externalTrafficPolicy": "Local", "clusterIP"`)}, Endpoints: []Endpoints{alive(edited(t), "n2")}, Nodes: nodes}, annotated, atVIP, "default/web/http: web|_http._tcp n2-kube 192.168.1.12 30080\n"},
		"load balancer's address":           {view(edited(t, status(`{"ip": "192.168.1.200"}`)...)), annotated, atVIP, "default/web/http: web|_http._tcp web-default 192.168.1.200 80\n"},
		"load balancer's is the virtual IP": {view(edited(t, status(`{"ip": "192.168.1.12"}, {"ip": "192.168.1.100"}`)...)), annotated, atVIP, "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100,192.168.1.12 80\n"},
		"load balancer on a node that is off": {view(edited(t, status(`{"ip": "192.168.1.11"}, {"ip": "192.168.1.12"}`)...)), annotated, Place{Down: map[netip.Addr]bool{ip("192.168.1.11"): true}},
			"default/web/http: web|_http._tcp web-default 192.168.1.12 80\n"},
		"load balancer that only has a name": {view(edited(t, status(`{"hostname": "x.example.org"}`)...)), annotated, atVIP, "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"load balancer that is not there":    {view(edited(t, `"type": "NodePort"`, lb)), annotated, atVIP, "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"external IP": {view(edited(t, `"type": "NodePort"`, `"type": "ClusterIP", "externalIPs": ["192.168.1.50"]`)), annotated, atVIP,
			"default/web/http: web|_http._tcp web-default 192.168.1.50 80\n"},
		"external-dns target": {view(edited(t, `"relevo.dev/publish": "true"`, `"external-dns.alpha.kubernetes.io/hostname": "web.local", "external-dns.alpha.kubernetes.io/target": "192.168.1.60"`)), annotated, atVIP,
			"default/web/http: web|_http._tcp web 192.168.1.60 80\n"},
		"cluster IP":                 {view(edited(t, `"type": "NodePort"`, `"type": "ClusterIP"`)), all, atVIP, ""},
		"headless":                   {view(edited(t, `10.96.0.7`, `None`)), all, atVIP, ""},
		"external name":              {view(edited(t, `"type": "NodePort"`, `"type": "ExternalName"`)), all, atVIP, ""},
		"no ports":                   {view(edited(t, `[{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}]`, `[]`)), all, atVIP, ""},
		"no endpoints":               {View{Services: []Service{edited(t)}}, all, atVIP, ""},
		"endpoints of another port":  {View{Services: []Service{edited(t)}, Endpoints: []Endpoints{{Service: "default/web", Ports: []string{"other"}, Nodes: []string{"n1"}}}}, all, atVIP, ""},
		"not ready endpoints":        {View{Services: []Service{edited(t)}, Endpoints: []Endpoints{{Service: "default/web", Ports: []string{"http"}}}}, all, atVIP, ""},
		"nobody asked":               {view(edited(t, `"relevo.dev/publish": "true"`, `"other/annotation": "x"`)), annotated, atVIP, ""},
		"all, nobody asked":          {view(edited(t, `"relevo.dev/publish": "true"`, ``)), all, atVIP, "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"all, but not this one":      {view(edited(t, `"true"`, `"false"`)), all, atVIP, ""},
		"another namespace":          {view(edited(t)), Settings{Mode: All, Namespaces: []string{"lan"}}, atVIP, ""},
		"off":                        {view(edited(t)), Settings{Mode: Off}, atVIP, ""},
		"SCTP":                       {view(edited(t, `"TCP"`, `"SCTP"`)), annotated, atVIP, ""},
		"a name":                     {view(edited(t, `relevo.dev/publish": "true"`, `relevo.dev/name": "Casa Cámara"`)), annotated, atVIP, "default/web/http: Casa Cámara|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"a type and texts":           {view(edited(t, `relevo.dev/publish": "true"`, `relevo.dev/type": "ipp", "relevo.dev/txt.path": "/x y", "relevo.dev/txt.a": ""`)), annotated, atVIP, `default/web/http: web|_ipp._tcp home-kubernetes 192.168.1.100 30080 ["a=" "path=/x y"]` + "\n"},
		"kubelish":                   {view(edited(t, `relevo.dev/publish": "true"`, `kubelish/service-name": "Example", "kubelish/service-type": "_example._tcp", "kubelish/txt": "hello"`)), annotated, atVIP, `default/web/http: Example|_example._tcp home-kubernetes 192.168.1.100 30080 ["hello"]` + "\n"},
		"kubelish without a type":    {view(edited(t, `relevo.dev/publish": "true"`, `kubelish/service-name": "Example"`)), annotated, atVIP, ""},
		"external-mdns":              {view(edited(t, `relevo.dev/publish": "true"`, `external-mdns.blakecovarrubias.com/hostnames": "foo, bar"`)), annotated, atVIP, "default/web/http: foo|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"external-mdns, later":       {view(edited(t, `relevo.dev/publish": "true"`, `external-mdns.blake.github.io/service-instance": "I", "external-mdns.blake.github.io/service-txt": "{\"http\": {\"path\": \"/e\"}}"`)), annotated, atVIP, `default/web/http: I|_http._tcp home-kubernetes 192.168.1.100 30080 ["path=/e"]` + "\n"},
		"external-mdns, publish":     {view(edited(t, `relevo.dev/publish": "true"`, `external-mdns.blake.github.io/publish": ""`)), annotated, atVIP, "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"external-dns, public":       {view(edited(t, `relevo.dev/publish": "true"`, `external-dns.alpha.kubernetes.io/hostname": "shop.example.org"`)), annotated, atVIP, ""},
		"external-dns, local":        {view(edited(t, `relevo.dev/publish": "true"`, `external-dns.kubernetes.io/hostname": "shop.local."`)), annotated, atVIP, "default/web/http: shop|_http._tcp home-kubernetes 192.168.1.100 30080\n"},
		"external-dns, other's":      {view(edited(t, `relevo.dev/publish": "true"`, `external-dns.kubernetes.io/hostname": "shop.local", "external-dns.kubernetes.io/controller": "other"`)), annotated, atVIP, ""},
		"a host of its own":          {view(edited(t, append(status(`{"ip": "192.168.1.200"}`), `relevo.dev/publish`, `relevo.dev/host": "shop.local", "relevo.dev/publish`)...)), annotated, atVIP, "default/web/http: web|_http._tcp shop 192.168.1.200 80\n"},
		"no node port was given yet": {view(edited(t, `, "nodePort": 30080`, ``)), annotated, atVIP, ""},
	} {
		got, _ := Translate(c.view, c.set, c.at)
		if show(got) != c.want {
			t.Errorf("%s:\ngot  %swant %s", name, show(got), c.want)
		}
	}
}

// The faults of serf-publisher, which announced Services by avahi-ps.
func TestFaultsOfSerfPublisher(t *testing.T) {
	now := func(v View) string { o, _ := Translate(v, all, atVIP); return show(o) }
	if got := now(view(edited(t, "30080", "31000"))); got != "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100 31000\n" {
		t.Errorf("a changed node port: the old one must be gone, and the ID the same: %s", got)
	}
	two := now(view(edited(t, `30080}]`, `30080}, {"name": "mqtt", "protocol": "TCP", "port": 1883, "nodePort": 31883}]`)))
	if two != "default/web/http: web|_http._tcp home-kubernetes 192.168.1.100 30080\ndefault/web/mqtt: web|_mqtt._tcp home-kubernetes 192.168.1.100 31883\n" {
		t.Errorf("every port, not the first alone: %s", two)
	}
	if got := now(view(edited(t, `[{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}]`, `null`))); got != "" {
		t.Errorf("no ports: %s", got)
	}
	if got := now(view(edited(t, `"type": "NodePort"`, `"type": "ClusterIP"`))); got != "" {
		t.Errorf("a cluster IP is no port 0: %s", got)
	}
	// The master dies: another announces the same, at an address that follows.
	other := atVIP
	other.Node, other.Addr = "n2", ip("192.168.1.12")
	after, _ := Translate(view(edited(t)), all, other)
	if got := now(view(edited(t))); got != show(after) {
		t.Errorf("another master announces\n%sthe one before\n%s", show(after), got)
	}
	// What was deleted while nobody looked is in no list.
	s := newStore(10, func() {}, convertService)
	s.Replace([]any{raw(t, "a"), raw(t, "b")}, "1")
	s.Replace([]any{raw(t, "b")}, "9")
	if svs, _, _ := s.values(); len(svs) != 1 || svs[0].Name != "b" {
		t.Errorf("after a new list there are %v", svs)
	}
}

func raw(t *testing.T, name string) *apiService {
	var o apiService
	if err := json.Unmarshal([]byte(strings.ReplaceAll(nodePort, `"web"`, `"`+name+`"`)), &o); err != nil {
		t.Fatal(err)
	}
	return &o
}

func TestTypes(t *testing.T) {
	for _, c := range []struct {
		annotations, name, proto, app string
		port                          int
		want                          string
		complains                     bool
	}{
		{port: 80, want: "_http._tcp"},
		{name: "https", port: 1, want: "_https._tcp"},
		{name: "http-admin", port: 1, want: "_http._tcp"},
		{name: "web", port: 1, want: "_http._tcp"},
		{name: "dns", proto: "UDP", port: 53, want: "_domain._udp"},
		{name: "x", port: 1, app: "kubernetes.io/h2c", want: "_http._tcp"},
		{name: "x", port: 1, app: "mqtt", want: "_mqtt._tcp"},
		{name: "gopher", port: 1, want: "_gopher._tcp"},
		{name: "a-name-that-is-too-long", port: 1, want: "_kube-service._tcp"},
		{port: 1, want: "_kube-service._tcp"},
		{port: 1, proto: "UDP", want: "_kube-service._udp"},
		{port: 80, proto: "UDP", want: "_kube-service._udp"},
		{annotations: `"relevo.dev/type": "_daap._tcp"`, port: 80, want: "_daap._tcp"},
		{annotations: `"relevo.dev/type": "daap"`, port: 80, want: "_daap._tcp"},
		{annotations: `"relevo.dev/type": "_daap._tcp.local."`, port: 80, want: "_daap._tcp"},
		{annotations: `"relevo.dev/type.p": "daap", "relevo.dev/type": "ipp"`, name: "p", port: 80, want: "_daap._tcp"},
		{annotations: `"relevo.dev/type": "_Kubernetes._tcp"`, port: 80, want: "_http._tcp", complains: true},
		{annotations: `"relevo.dev/type": "relevo"`, port: 80, want: "_http._tcp", complains: true},
		{name: "kubernetes", port: 1, want: "_kube-service._tcp"},
		{annotations: `"relevo.dev/type": "_sip._udp"`, port: 80, want: "_http._tcp", complains: true},
		{annotations: `"relevo.dev/type": "no type \u0007"`, port: 80, want: "_http._tcp", complains: true},
	} {
		if c.proto == "" {
			c.proto = "TCP"
		}
		ann := `"relevo.dev/publish": "true"`
		if c.annotations != "" {
			ann = c.annotations
		}
		sv := edited(t, `"relevo.dev/publish": "true"`, ann, `"name": "http"`, fmt.Sprintf(`"name": %q, "appProtocol": %q`, c.name, c.app), `"TCP"`, `"`+c.proto+`"`, `"port": 80`, fmt.Sprintf(`"port": %d`, c.port))
		got, problems := Translate(view(sv), annotated, atVIP)
		if len(got) != 1 || got[0].Type != c.want || (len(problems) > 0) != c.complains {
			t.Errorf("%+v: %s%q", c, show(got), problems)
		}
	}
}

func TestNames(t *testing.T) {
	older := edited(t)
	newer := edited(t, `"namespace": "default"`, `"namespace": "shop"`, "2026-01-01", "2026-02-01", "30080", "30081")
	names := func(v View) (out []string) {
		offers, _ := Translate(v, all, atVIP)
		for _, o := range offers {
			out = append(out, o.Name)
		}
		return out
	}
	if got := names(view(newer, older)); !slices.Equal(got, []string{"web", "web (shop)"}) {
		t.Errorf("of two with one name the older keeps it: %q", got)
	}
	if got := names(View{Services: []Service{newer, older}, Endpoints: []Endpoints{alive(newer)}}); !slices.Equal(got, []string{"web (shop)"}) {
		t.Errorf("a name must not change because somebody else has no endpoints at the moment: %q", got)
	}
	same := edited(t, `"name": "web"`, `"name": "other"`, `relevo.dev/publish": "true"`, `relevo.dev/name": "WEB"`, "2026-01-01", "2026-03-01")
	third := edited(t, `"name": "web"`, `"name": "zzz"`, `relevo.dev/publish": "true"`, `relevo.dev/name": "web"`, "2026-01-01", "2026-04-01")
	if got := names(view(older, newer, same, third)); !slices.Equal(got, []string{"WEB (default)", "web", "web (default/zzz)", "web (shop)"}) {
		t.Errorf("four with one name, whatever its case: %q", got)
	}
	ports := edited(t, `30080}]`, `30080}, {"name": "admin", "protocol": "TCP", "port": 8080, "nodePort": 30090}]`)
	if got := names(view(ports)); !slices.Equal(got, []string{"web admin", "web http"}) {
		t.Errorf("two ports of one type: %q", got)
	}
	named := edited(t, `30080}]`, `30080}, {"name": "admin", "protocol": "TCP", "port": 8080, "nodePort": 30090}]`, `"relevo.dev/publish": "true"`, `"relevo.dev/name.admin": "Console"`)
	if got := names(view(named)); !slices.Equal(got, []string{"Console", "web"}) {
		t.Errorf("a port with a name of its own: %q", got)
	}
	only := edited(t, `30080}]`, `30080}, {"name": "admin", "protocol": "TCP", "port": 8080, "nodePort": 30090}]`, `"relevo.dev/publish": "true"`, `"relevo.dev/ports": "8080, none"`)
	if got := names(view(only)); !slices.Equal(got, []string{"web"}) {
		t.Errorf("one port chosen: %q", got)
	}
	for _, n := range []string{"\\u0000\\u0007", strings.Repeat("🦜", 60), "a\\nb", "  x  y ", strings.Repeat("é", 100), "a.b/c"} {
		sv := edited(t, `relevo.dev/publish": "true"`, `relevo.dev/name": "`+n+`"`)
		twin := sv
		twin.Namespace = strings.Repeat("n", 63)
		v := view(sv, twin)
		offers, _ := Translate(v, all, atVIP)
		for _, o := range offers {
			s := avahi.Service{Name: o.Name, Type: o.Type, Port: o.Port, TXT: o.TXT, Host: o.Host, Addr: o.Addrs[0]}
			if err := s.Check(); err != nil || !utf8.ValidString(o.Name) {
				t.Errorf("%q becomes %q: %v", n, o.Name, err)
			}
		}
		if len(offers) != 2 || offers[0].Name == offers[1].Name {
			t.Errorf("%q: %s", n, show(offers))
		}
	}
}

func TestProblems(t *testing.T) {
	for want, sv := range map[string]Service{
		"nothing outside the cluster reaches it": edited(t, `"type": "NodePort"`, `"type": "ClusterIP"`),
		"DNS-SD knows TCP and UDP":               edited(t, `"TCP"`, `"SCTP"`),
		`"true" or "false" is allowed`:           edited(t, `"true"`, `"maybe", "relevo.dev/name": "x"`),
		"relevo knows no such annotation":        edited(t, `relevo.dev/publish`, `relevo.dev/pubish`),
		"is no JSON object":                      edited(t, `relevo.dev/publish": "true"`, `external-mdns.blake.github.io/service-txt": "path=/"`),
		"letters, digits and hyphens":            edited(t, `relevo.dev/publish": "true"`, `relevo.dev/host": "a b"`),
	} {
		if _, problems := Translate(view(sv), annotated, atVIP); len(problems) != 1 || !strings.Contains(problems[0], want) || !strings.Contains(problems[0], "default/web") {
			t.Errorf("want %q, got %q", want, problems)
		}
	}
}

// A thousand Services are bounded, and the oldest are the ones that stay.
func TestManyServices(t *testing.T) {
	var svs []Service
	for i := range 1000 {
		sv := edited(t)
		sv.Name, sv.Created = fmt.Sprintf("web-%04d", i), sv.Created.Add(time.Duration(-i)*time.Second)
		svs = append(svs, sv)
	}
	offers, problems := Translate(view(svs...), annotated, atVIP)
	if len(offers) != maxOffers || len(problems) != 1 || !strings.Contains(problems[0], "200 ports") {
		t.Fatalf("%d offers, problems %q", len(offers), problems)
	}
	if offers[0].ID != "default/web-0200/http" {
		t.Errorf("the oldest must stay, the first is %s", offers[0].ID)
	}
	s := newStore(10, func() {}, convertService)
	for i := range 30 {
		s.Add(raw(t, fmt.Sprint("web-", i)))
	}
	if kept, _, full := s.values(); len(kept) != 10 || !full {
		t.Errorf("%d kept, full: %v", len(kept), full)
	}
}

// One host label is one address.
func TestHostsAreUnique(t *testing.T) {
	lb := func(name, host, addr string) Service {
		sv := edited(t, `"name": "web"`, `"name": "`+name+`"`, `relevo.dev/publish": "true"`, `relevo.dev/host": "`+host+`"`)
		sv.LoadBalancer = []netip.Addr{ip(addr)}
		return sv
	}
	offers, _ := Translate(view(lb("a", "shop", "192.168.1.1"), lb("b", "shop", "192.168.1.2"), lb("c", "shop", "192.168.1.1"), lb("d", "home-kubernetes", "192.168.1.3")), annotated, atVIP)
	var got []string
	for _, o := range offers {
		got = append(got, o.Host)
	}
	if want := []string{"shop", "shop-192-168-1-2", "shop", "home-kubernetes-192-168-1-3"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestConvert(t *testing.T) {
	var slice apiSlice
	err := json.Unmarshal([]byte(`{"metadata": {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
		"endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "n2", "conditions": {"ready": true}}, {"conditions": {"ready": false}, "nodeName": "n3"}, {"conditions": {}, "nodeName": "n1"}, {"nodeName": "n1"}],
		"ports": [{"name": "http", "port": 80}, {"name": "unresolved"}, {"port": 81}]}`), &slice)
	if err != nil {
		t.Fatal(err)
	}
	e, ok := convertSlice(&slice)
	if !ok || e.Service != "default/web" || !slices.Equal(e.Nodes, []string{"n1", "n2"}) || !slices.Equal(e.Ports, []string{"http", ""}) {
		t.Errorf("%+v %v", e, ok)
	}
	if _, ok := convertSlice(&apiSlice{}); ok {
		t.Error("a slice of no Service is kept")
	}
	var node apiNode
	err = json.Unmarshal([]byte(`{"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.11"}, {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
		{"type": "InternalIP", "address": "rubbish"}, {"type": "InternalIP", "address": "0.0.0.0"}], "conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "True"}]}}`), &node)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := convertNode(&node)
	if !n.Ready || !slices.Equal(n.Internal, []netip.Addr{ip("192.168.1.11")}) || !slices.Equal(n.External, []netip.Addr{ip("203.0.113.1")}) {
		t.Errorf("%+v", n)
	}
	many := map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "x", "relevo.dev/name": "n", "relevo.dev/txt.long": strings.Repeat("x", maxAnnotation+1)}
	if kept := keepAnnotations(many); len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
}

// What an API server says is bounded and never makes a service that cannot be
// announced, or two of one name.
func FuzzTranslate(f *testing.F) {
	f.Add(nodePort, "relevo.dev/name", "x")
	f.Add(strings.Replace(nodePort, "NodePort", "LoadBalancer", 1), "external-mdns.blake.github.io/service-txt", `{"http":{"a":"b"}}`)
	f.Add(nodePort, "kubelish/service-type", "_x._tcp")
	f.Add(nodePort, "relevo.dev/host", "-.local")
	f.Add(`{"metadata": {}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}}`, "relevo.dev/publish", "true")
	f.Add(strings.Replace(nodePort, `"web"`, `"a\u001bb"`, 1), "relevo.dev/publish", "true")
	f.Fuzz(func(t *testing.T, text, key, value string) {
		var o apiService
		if json.Unmarshal([]byte(text), &o) != nil {
			return
		}
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations[key] = value
		sv, ok := convertService(&o)
		if !ok {
			return
		}
		twin := sv
		twin.Namespace += "2"
		offers, problems := Translate(view(sv, twin), all, atVIP)
		again, _ := Translate(view(twin, sv), all, atVIP)
		if show(offers) != show(again) {
			t.Errorf("the order matters:\n%s%s", show(offers), show(again))
		}
		if len(problems) > maxProblems+2 {
			t.Errorf("%d problems", len(problems))
		}
		seen := map[string]bool{}
		for _, o := range offers {
			id := strings.ToLower(o.Name) + " " + o.Type
			if seen[id] {
				t.Errorf("twice: %s", id)
			}
			seen[id] = true
			s := avahi.Service{Name: o.Name, Type: o.Type, Port: o.Port, Host: o.Host}
			if len(o.Addrs) > 0 {
				s.Addr = o.Addrs[0]
			}
			if _, _, err := s.Fit(); err != nil && o.Port <= 65535 && o.Port > 0 {
				t.Errorf("%+v: %v", o, err)
			}
		}
	})
}
