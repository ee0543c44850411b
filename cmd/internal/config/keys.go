package config

import (
	"context"
	"fmt"

	"commissaire/adapters/credentials"
	"commissaire/adapters/transparency"
)

// ReadSigningKey reads the key that signs checkpoints of the log from file:PATH,
// env:NAME or exec:COMMAND.
func ReadSigningKey(ctx context.Context, source string) (*transparency.Key, error) {
	secret, err := credentials.Source(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("log.signing-key: %w; commissaire events key makes one", err)
	}
	key, err := transparency.ParseKey(secret)
	if err != nil {
		return nil, fmt.Errorf("log.signing-key: %w; commissaire events key makes one", err)
	}
	return key, nil
}
