-- Users, in the app's own tables: edit these statements, or put your own into a file of the same name in the folder
-- `database.statements_folder` of the settings (docs/adopting.md). Names, parameters and result columns must stay.
--
-- A secret field of a message can refer to a statement that returns `value` and `recipient`: {"$ref": "password_reset_token", "id": 17}.
-- It gets the id as text or number and returns at most one row. Fernet text is decrypted; without a row, or with a null, the message is
-- dead. So it is unless it goes to `recipient`: whose secret it is, an address of the message's channel, or an array of one per channel.

-- name: password_reset_token
-- The encrypted token of a password reset that was not used and has not expired.
SELECT t.token_encrypted AS value, u.email AS recipient FROM app.tokens AS t JOIN app.users AS u ON u.id = t.user_id
WHERE t.id = %(id)s::bigint AND t.kind = 'password_reset' AND t.used_at IS NULL AND t.expires_at > clock_timestamp();

-- name: email_verification_token
-- The encrypted token of an email verification that was not used and has not expired.
SELECT t.token_encrypted AS value, u.email AS recipient FROM app.tokens AS t JOIN app.users AS u ON u.id = t.user_id
WHERE t.id = %(id)s::bigint AND t.kind = 'email_verification' AND t.used_at IS NULL AND t.expires_at > clock_timestamp();

-- name: mfa_code
-- The encrypted code of a sign-in that was not used and has not expired.
SELECT t.token_encrypted AS value, u.phone AS recipient FROM app.tokens AS t JOIN app.users AS u ON u.id = t.user_id
WHERE t.id = %(id)s::bigint AND t.kind = 'otp' AND t.used_at IS NULL AND t.expires_at > clock_timestamp();

-- name: user_contact
-- The contact data of one user; no row if they must not get messages.
SELECT u.email AS email, u.name AS name, u.language AS language, u.zone AS zone FROM app.users AS u
WHERE u.id = %(id)s::bigint AND u.state <> 'deactivated';

-- name: admin_recipients
-- The recipients of alerts to admins: one row each.
SELECT u.email AS email, u.name AS name, u.language AS language, u.zone AS zone FROM app.users AS u
WHERE u.is_admin AND u.state = 'active' ORDER BY u.id;

-- name: push_tokens
-- The devices of one user that get push messages, the most recently used first: one row each. It gets the id as text: the part
-- after `user:` in a push message's recipient.
SELECT t.token AS token FROM app.push_tokens AS t JOIN app.users AS u ON u.id = t.user_id
WHERE t.user_id = %(id)s::bigint AND t.removed_at IS NULL AND u.state <> 'deactivated'
ORDER BY t.last_seen_at DESC, t.id;

-- name: push_token_remove
-- Removes a device that the push provider no longer knows; a removed one stays as it is.
UPDATE app.push_tokens SET removed_at = greatest(clock_timestamp(), created_at), removed_reason = %(reason)s::text
WHERE token = %(token)s::text AND removed_at IS NULL;
