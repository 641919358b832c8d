package manifests

import _ "embed" // for the directives below

//go:embed gatewayctl-agent.service
var unit string

//go:embed sshd_config.d/gatewayctl.conf
var sshd string

//go:embed haproxy.service.d/cloud-provider-haproxy.conf
var haproxyUnit string

//go:embed keepalived.service.d/cloud-provider-haproxy.conf
var keepalivedUnit string

// Unit is gatewayctl-agent.service.
func Unit() string { return unit }

// SSHD is sshd_config.d/gatewayctl.conf, for the user gatewayctl.
func SSHD() string { return sshd }

// HAProxyUnit is haproxy.service.d/cloud-provider-haproxy.conf.
func HAProxyUnit() string { return haproxyUnit }

// KeepalivedUnit is keepalived.service.d/cloud-provider-haproxy.conf.
func KeepalivedUnit() string { return keepalivedUnit }
