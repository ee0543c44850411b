package config

import (
	"regexp"
	"slices"
	"strings"

	"commissaire/api/authentication"
	"commissaire/domain"
)

// passwordInURL is what stands between the user and the host of a URL.
var passwordInURL = regexp.MustCompile(`(://[^:/@]*):[^/]*@`)

// Masked is the configuration without secrets, as it may be shown; it can be read again.
func (c Config) Masked() Config {
	plugins := slices.Clone(c.AuthenticationPlugins)
	for i, p := range plugins {
		users := make(map[string]authentication.User, len(p.Users))
		for name, user := range p.Users {
			users[name] = authentication.User{Hash: domain.Mask, Roles: user.Roles}
		}
		plugins[i].Users = users
	}
	c.AuthenticationPlugins = plugins
	for _, source := range []*string{&c.Credentials.MasterKey, &c.Credentials.Keys, &c.SSH.Jump.Key, &c.Log.SigningKey} {
		if strings.HasPrefix(*source, "exec:") {
			*source = "exec:********"
		}
	}
	c.Store = c.Location().Masked()
	for _, url := range []*string{&c.Bootstrap.EtcdURL, &c.Bootstrap.RegistryMirror, &c.Log.CheckpointURL} {
		*url = passwordInURL.ReplaceAllString(*url, "$1:********@")
	}
	return c
}
