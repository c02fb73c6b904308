-- The app's own people and tokens. To adopt Backline, edit these statements to fit your tables.
--
-- Statements that a secret field may refer to ({"$ref": "<statement>", "id": ...}) take %(id)s and return one row with
-- one column, `value`: the secret, or Fernet text of it under a key of BACKLINE_FERNET_KEYS. No row, or null, and the
-- message is dead.

-- name: password_reset_token
-- The token of a password reset that can still be used.
SELECT token_sealed AS value FROM app.tokens
WHERE id = %(id)s::bigint AND kind = 'password_reset' AND used_at IS NULL AND expires_at > clock_timestamp();

-- name: email_verification_token
-- The token that proves an email address, as long as it can be used.
SELECT token_sealed AS value FROM app.tokens
WHERE id = %(id)s::bigint AND kind = 'email_verification' AND used_at IS NULL AND expires_at > clock_timestamp();
