package config

import (
	"time"

	"gopkg.in/yaml.v3"
)

// setter checks the value n of the key at path, stores it, or notes what is wrong.
type setter func(d *decoder, n *yaml.Node, path string)

// field is one key of a section: a value with its setter, or a section of its own.
type field struct {
	key      string
	set      setter
	sub      func() []field // a section; called when it is there
	required bool
}

func value(key string, set setter) field           { return field{key: key, set: set} }
func need(key string, set setter) field            { return field{key: key, set: set, required: true} }
func section(key string, sub func() []field) field { return field{key: key, sub: sub} }
func needSection(key string, sub func() []field) field {
	return field{key: key, sub: sub, required: true}
}

// schema is the file as it may be written, storing into c. Reading it top to
// bottom is reading relevo.yaml.
func schema(c *Config) []field {
	return []field{
		need("cluster", name(&c.Cluster)),
		value("node", orEmpty(&c.Node, name(&c.Node))),
		value("data_dir", absPath(&c.DataDir)),
		value("interface", orEmpty(&c.Interface, interfaceName(&c.Interface))),
		value("advertise", addr(&c.Advertise)),
		value("lease_ttl", duration(&c.LeaseTTL, 3*time.Second, time.Minute)),
		value("max_lag", duration(&c.MaxLag, time.Second, time.Hour)),
		value("max_failovers", integer(&c.MaxFailovers, 0, 100)),
		value("voter", boolean(&c.Voter)),
		section("gossip", func() []field {
			return []field{
				value("port", integer(&c.Gossip.Port, 1, 65535)),
				value("key_file", absPath(&c.Gossip.KeyFile)),
			}
		}),
		section("peer", func() []field {
			return []field{
				value("port", integer(&c.Peer.Port, 1, 65535)),
				value("pki_dir", absPath(&c.Peer.PKIDir)),
			}
		}),
		value("join", list(&c.Join, 64, hostPort)),
		section("mdns", func() []field {
			return []field{value("backend", oneOf(&c.MDNS.Backend, BackendAuto, BackendAvahi, BackendZeroconf, BackendOff))}
		}),
		section("http", func() []field {
			return []field{value("listen", orEmpty(&c.HTTP.Listen, listen(&c.HTTP.Listen)))}
		}),
		section("fence", func() []field {
			return []field{
				value("command", command(&c.Fence.Command)),
				value("timeout", duration(&c.Fence.Timeout, time.Second, time.Minute)),
			}
		}),
		section("health", func() []field { return health(&c.Health) }),
		section("kubernetes", func() []field { return kubernetes(&c.Kubernetes) }),
		section("services", func() []field { return services(&c.Services) }),
		section("cloudy", func() []field { return cloudy(&c.Cloudy) }),
		value("socket", socketPath(&c.Socket)),
		section("access", func() []field {
			return []field{value("others", oneOf(&c.Access.Others, OthersNone, OthersStatus))}
		}),
		section("log", func() []field {
			return []field{value("level", level(&c.Log.Level))}
		}),
		section("candidate", func() []field {
			c.Candidate = candidateDefaults()
			return candidate(c.Candidate)
		}),
	}
}

func candidate(c *Candidate) []field {
	cp := &c.ControlPlane
	return []field{
		value("priority", integer(&c.Priority, -100, 100)),
		value("never", boolean(&c.Never)),
		needSection("control_plane", func() []field {
			return []field{
				value("kind", oneOf(&cp.Kind, KindUnits, KindK3s)),
				value("data_dir", orEmpty(&cp.DataDir, absPath(&cp.DataDir))),
				value("units", list(&cp.Units, 32, unit)), // what a kind needs: kinds.go
				value("standby_units", list(&cp.StandbyUnits, 32, unit)),
				section("datastore", func() []field {
					return []field{
						value("kind", oneOf(&cp.Datastore.Kind, DatastoreKine)),
						value("path", absPath(&cp.Datastore.Path)),
					}
				}),
				value("identity", list(&cp.Identity, 256, identityPath)),
				section("api", func() []field { return api(&cp.API) }),
			}
		}),
		section("replica", func() []field {
			return []field{
				value("sync_interval", duration(&c.Replica.SyncInterval, time.Second, 10*time.Minute)),
				value("verify_interval", orOff(&c.Replica.VerifyInterval, duration(&c.Replica.VerifyInterval, time.Minute, 90*24*time.Hour))),
			}
		}),
		section("rehearsal", func() []field {
			return []field{
				value("every", orOff(&c.Rehearsal.Every, duration(&c.Rehearsal.Every, time.Hour, 90*24*time.Hour))),
				value("at", timeOfDay(&c.Rehearsal.At)),
				value("memory", mebibytes(&c.Rehearsal.Memory, 64, 64<<10)),
			}
		}),
		section("vip", func() []field {
			c.VIP = &VIP{}
			return []field{
				need("address", vipAddress(&c.VIP.Address)),
				value("interface", orEmpty(&c.VIP.Interface, interfaceName(&c.VIP.Interface))),
				need("port", integer(&c.VIP.Port, 1, 65535)),
			}
		}),
	}
}

func api(a *API) []field {
	return []field{
		value("url", apiURL(&a.URL)),
		value("ca_file", orEmpty(&a.CAFile, absPath(&a.CAFile))),
		value("token_file", orEmpty(&a.TokenFile, absPath(&a.TokenFile))),
		value("client_cert_file", orEmpty(&a.ClientCertFile, absPath(&a.ClientCertFile))),
		value("client_key_file", orEmpty(&a.ClientKeyFile, absPath(&a.ClientKeyFile))),
		value("start_timeout", duration(&a.StartTimeout, 5*time.Second, 30*time.Minute)),
		value("grace", duration(&a.Grace, time.Second, time.Hour)),
	}
}
