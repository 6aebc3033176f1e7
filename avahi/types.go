package avahi

import (
	"slices"
	"strings"
)

// AllTypes, browsed for, stands for every type that anybody announces.
const AllTypes = "_services._dns-sd._udp"

// ValidType checks a service type by RFC 6763: _name._tcp or _name._udp, where
// name has at most 15 letters, digits and hyphens, one letter at least.
func ValidType(t string) bool {
	name, ok := strings.CutSuffix(t, "._tcp")
	if !ok {
		name, ok = strings.CutSuffix(t, "._udp")
	}
	if name, under := strings.CutPrefix(name, "_"); ok && under {
		return validTypeName(name, 15)
	}
	return false
}

// validSubtype checks a subtype such as _printer: a label of its own.
func validSubtype(t string) bool {
	name, under := strings.CutPrefix(t, "_")
	return under && validTypeName(name, MaxName-1)
}

func validTypeName(name string, most int) bool {
	if name == "" || len(name) > most || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	letters := strings.ContainsFunc(name, func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' })
	return letters && !strings.ContainsFunc(name, func(r rune) bool { return !letterDigitHyphen(r) })
}

// typeNames is what people call the types that are met on a LAN; IANA has the rest.
var typeNames = map[string]string{
	"_adisk._tcp":           "Time Machine disk",
	"_afpovertcp._tcp":      "Apple file share",
	"_airplay._tcp":         "AirPlay",
	"_amzn-wplay._tcp":      "Amazon Fire TV",
	"_coap._udp":            "CoAP",
	"_companion-link._tcp":  "Apple device",
	"_daap._tcp":            "music library",
	"_device-info._tcp":     "device information",
	"_distcc._tcp":          "distributed compiler",
	"_domain._udp":          "name server",
	"_elg._tcp":             "Elgato light",
	"_esphomelib._tcp":      "ESPHome device",
	"_etcd-client._tcp":     "etcd",
	"_etcd-server._tcp":     "etcd member",
	"_ftp._tcp":             "file transfer",
	"_googlecast._tcp":      "Chromecast",
	"_hap._tcp":             "HomeKit device",
	"_home-assistant._tcp":  "Home Assistant",
	"_homekit._tcp":         "HomeKit hub",
	"_hue._tcp":             "Hue bridge",
	"_http._tcp":            "web page",
	"_http-alt._tcp":        "web page",
	"_https._tcp":           "secure web page",
	"_imap._tcp":            "mailbox",
	"_ipfs-discovery._udp":  "IPFS node",
	"_ipp._tcp":             "printer",
	"_ipps._tcp":            "printer (secure)",
	"_kdeconnect._udp":      "KDE Connect",
	"_kubernetes._tcp":      "Kubernetes API",
	"_ldap._tcp":            "directory",
	"_matter._tcp":          "Matter device",
	"_matterc._udp":         "Matter device to set up",
	"_mqtt._tcp":            "MQTT broker",
	"_mysql._tcp":           "MySQL database",
	"_nfs._tcp":             "network file system",
	"_nut._tcp":             "power supply monitor",
	"_ntp._udp":             "time server",
	"_octoprint._tcp":       "OctoPrint",
	"_pdl-datastream._tcp":  "printer (raw)",
	"_postgresql._tcp":      "PostgreSQL database",
	"_printer._tcp":         "printer (LPD)",
	"_privet._tcp":          "cloud printer",
	"_prometheus-http._tcp": "metrics",
	"_pulse-server._tcp":    "sound server",
	"_pulse-sink._tcp":      "sound output",
	"_pulse-source._tcp":    "sound input",
	"_raop._tcp":            "AirPlay speaker",
	"_rdp._tcp":             "remote desktop",
	"_relevo._tcp":          "relevo agent",
	"_relevo-init._tcp":     "relevo init",
	"_rfb._tcp":             "remote desktop (VNC)",
	"_rsync._tcp":           "rsync",
	"_rtsp._tcp":            "camera stream",
	"_scanner._tcp":         "scanner",
	"_serf._tcp":            "Serf agent",
	"_sftp-ssh._tcp":        "file transfer over SSH",
	"_shelly._tcp":          "Shelly device",
	"_sip._udp":             "telephone",
	"_sleep-proxy._udp":     "sleep proxy",
	"_smb._tcp":             "Windows file share",
	"_smtp._tcp":            "mail server",
	"_snapcast._tcp":        "Snapcast",
	"_sonos._tcp":           "Sonos speaker",
	"_spotify-connect._tcp": "Spotify Connect",
	"_ssh._tcp":             "secure shell",
	"_syncthing._tcp":       "Syncthing",
	"_telnet._tcp":          "Telnet",
	"_tftp._udp":            "TFTP server",
	"_touch-able._tcp":      "Apple remote control",
	"_udisks-ssh._tcp":      "remote disks",
	"_uscan._tcp":           "scanner",
	"_uscans._tcp":          "scanner (secure)",
	"_webdav._tcp":          "web folder",
	"_wled._tcp":            "WLED light",
	"_workstation._tcp":     "computer",
	"_xmpp-client._tcp":     "chat server",
	"_xmpp-server._tcp":     "chat server to server",
	"_zigbee2mqtt._tcp":     "Zigbee bridge",
}

// TypeName is what people call a service type; where there is no word for it, its
// own name without underscores.
func TypeName(t string) string {
	if n, ok := typeNames[foldName(t)]; ok {
		return n
	}
	name, proto, _ := strings.Cut(strings.TrimPrefix(t, "_"), "._")
	if proto == "udp" {
		name += " (UDP)"
	}
	return Printable(name, MaxName)
}

// sortedTypes are types without what is none, each once.
func sortedTypes(ts []string) []string {
	out := slices.Clone(ts)
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(t string) bool { return t != AllTypes && !ValidType(t) })
}
