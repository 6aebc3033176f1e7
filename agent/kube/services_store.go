package kube

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// Limits on what is kept, in number. A cluster that relevo is for has far less.
const (
	maxServices   = 5000
	maxSlices     = 10000
	maxNodes      = 1000
	maxPorts      = 100 // of a Service or an EndpointSlice
	maxSliceNodes = 100 // of an EndpointSlice
)

// store keeps small values of the objects that a reflector brings. It calls changed
// when what it keeps is another thing than before, which most updates are not.
type store[O metav1.Object, T any] struct {
	convert func(O) (T, bool) // false: not wanted
	changed func()
	limit   int

	mu     sync.Mutex
	m      map[string]T
	synced bool
	full   bool // something was left out
}

func newStore[O metav1.Object, T any](limit int, changed func(), convert func(O) (T, bool)) *store[O, T] {
	return &store[O, T]{convert: convert, changed: changed, limit: limit, m: map[string]T{}}
}

func keyOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// Add, Update, Delete and Replace are called by the reflector.

func (s *store[O, T]) Add(obj any) error { return s.Update(obj) }

func (s *store[O, T]) Update(obj any) error {
	o, ok := obj.(O)
	if !ok {
		return fmt.Errorf("an object of type %T came in", obj)
	}
	v, want := s.convert(o)
	s.mu.Lock()
	changed := s.put(s.m, keyOf(o), v, want)
	s.mu.Unlock()
	if changed {
		s.changed()
	}
	return nil
}

// put stores a value or removes what was there, and says whether that is a change.
func (s *store[O, T]) put(m map[string]T, key string, v T, want bool) bool {
	was, had := m[key]
	switch {
	case !want:
		delete(m, key)
		return had
	case !had && len(m) >= s.limit:
		s.full = true
		return false
	}
	m[key] = v
	return !had || !reflect.DeepEqual(was, v)
}

func (s *store[O, T]) Delete(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("an object of type %T went", obj)
	}
	s.mu.Lock()
	_, had := s.m[keyOf(o)]
	delete(s.m, keyOf(o))
	s.mu.Unlock()
	if had {
		s.changed()
	}
	return nil
}

// Replace takes a whole list: after an hour without the API server nothing is
// withdrawn on the way to it.
func (s *store[O, T]) Replace(objs []any, _ string) error {
	next := make(map[string]T, min(len(objs), s.limit))
	s.mu.Lock()
	s.full = false
	for _, obj := range objs {
		if o, ok := obj.(O); ok {
			v, want := s.convert(o)
			s.put(next, keyOf(o), v, want)
		}
	}
	changed := !s.synced || !reflect.DeepEqual(s.m, next)
	s.m, s.synced = next, true
	s.mu.Unlock()
	if changed {
		s.changed()
	}
	return nil
}

func (s *store[O, T]) Resync() error { return nil }

// Transformer takes what is large and not needed from objects before a reflector
// keeps them for a while.
func (s *store[O, T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if o, ok := obj.(metav1.Object); ok {
			o.SetManagedFields(nil)
			o.SetFinalizers(nil)
			o.SetOwnerReferences(nil)
		}
		return obj, nil
	}
}

func (s *store[O, T]) values() (vs []T, synced, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vs = make([]T, 0, len(s.m))
	for _, v := range s.m {
		vs = append(vs, v)
	}
	return vs, s.synced, s.full
}

// The conversions. What an API server says is believed, but bounded.

// convertService says false of what has no name that a Service can have: it could not be
// announced, or told of.
func convertService(o *apiService) (Service, bool) {
	s := Service{Namespace: o.Namespace, Name: o.Name, Created: o.CreationTimestamp.Time, Type: o.Spec.Type, Local: o.Spec.Policy == "Local",
		ExternalIPs: addrs(o.Spec.ExternalIPs), Families: o.Spec.IPFamilies[:min(len(o.Spec.IPFamilies), 2)], Annotations: keepAnnotations(o.Annotations)}
	if o.Spec.ClusterIP == "None" {
		s.Type = "ExternalName" // headless: nobody answers but the pods themselves
	}
	var lb []string
	for _, i := range o.Status.LoadBalancer.Ingress {
		lb = append(lb, i.IP)
	}
	if s.Type == "LoadBalancer" {
		s.LoadBalancer = addrs(lb)
	}
	for _, p := range o.Spec.Ports[:min(len(o.Spec.Ports), maxPorts)] {
		port := ServicePort{Name: p.Name, Protocol: p.Protocol, App: p.AppProtocol, Port: p.Port}
		if s.Type == "NodePort" || s.Type == "LoadBalancer" {
			port.NodePort = p.NodePort
		}
		if port.Protocol == "" {
			port.Protocol = "TCP"
		}
		s.Ports = append(s.Ports, port)
	}
	return s, named(o.Namespace) && named(o.Name)
}

func named(s string) bool { return s != "" && cleanName(s) == s }

func addrs(texts []string) (out []netip.Addr) {
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil && usable(a) && len(out) < 4*maxAddrs {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// serviceLabel of an EndpointSlice names its Service.
const serviceLabel = "kubernetes.io/service-name"

func convertSlice(o *apiSlice) (Endpoints, bool) {
	name := o.Labels[serviceLabel]
	e := Endpoints{Service: o.Namespace + "/" + name}
	for _, p := range o.Endpoints {
		if p.Conditions.Ready != nil && !*p.Conditions.Ready || len(e.Nodes) >= maxSliceNodes {
			continue
		}
		if i, there := slices.BinarySearch(e.Nodes, p.NodeName); !there {
			e.Nodes = slices.Insert(e.Nodes, i, p.NodeName)
		}
	}
	for _, p := range o.Ports[:min(len(o.Ports), maxPorts)] {
		if p.Port == nil { // a port whose number the pods do not say
			continue
		}
		if p.Name != nil {
			e.Ports = append(e.Ports, *p.Name)
		} else {
			e.Ports = append(e.Ports, "")
		}
	}
	return e, name != ""
}

func convertNode(o *apiNode) (Node, bool) {
	n := Node{Name: o.Name}
	for _, a := range o.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil || !usable(ip) || len(n.Internal)+len(n.External) >= 2*maxAddrs {
			continue
		}
		switch a.Type {
		case "InternalIP":
			n.Internal = append(n.Internal, ip.Unmap())
		case "ExternalIP":
			n.External = append(n.External, ip.Unmap())
		}
	}
	for _, c := range o.Status.Conditions {
		n.Ready = n.Ready || c.Type == "Ready" && c.Status == "True"
	}
	return n, true
}
