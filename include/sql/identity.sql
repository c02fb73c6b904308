-- Who people are, in the app's own tables: edit these statements, or put your own into a file of the same name in the
-- folder `database.statements_folder` of the settings (docs/adopting.md). Names, parameters and result columns must stay.
--
-- A statement that returns `value` can be named by a secret field of a message: {"$ref": "password_reset_token", "id": 17}.
-- It is given the id as text or number and returns at most one row. Fernet text is opened; no row, or null, ends the message.

-- name: password_reset_token
-- The sealed secret of a password reset that was not used and has not expired.
SELECT t.token_encrypted AS value FROM app.tokens AS t
WHERE t.id = %(id)s::bigint AND t.kind = 'password_reset' AND t.used_at IS NULL AND t.expires_at > clock_timestamp();

-- name: email_verification_token
-- The sealed secret of an email verification that was not used and has not expired.
SELECT t.token_encrypted AS value FROM app.tokens AS t
WHERE t.id = %(id)s::bigint AND t.kind = 'email_verification' AND t.used_at IS NULL AND t.expires_at > clock_timestamp();

-- name: mfa_code
-- The sealed code of a sign-in that was not used and has not expired.
SELECT t.token_encrypted AS value FROM app.tokens AS t
WHERE t.id = %(id)s::bigint AND t.kind = 'otp' AND t.used_at IS NULL AND t.expires_at > clock_timestamp();

-- name: user_contact
-- How to write to one person; no row if they are not to be written to.
SELECT u.email AS email, u.name AS name, u.language AS language, u.zone AS zone FROM app.users AS u
WHERE u.id = %(id)s::bigint AND u.state <> 'deactivated';

-- name: admin_recipients
-- Where alerts to the admins go: one row each.
SELECT u.email AS email, u.name AS name, u.language AS language, u.zone AS zone FROM app.users AS u
WHERE u.is_admin AND u.state = 'active' ORDER BY u.id;

-- name: push_tokens
-- The devices on which one person wants push messages, the one that was used last first: one row each. It is given the id
-- as text: what stands after `user:` in a push message's recipient.
SELECT t.token AS token FROM app.push_tokens AS t JOIN app.users AS u ON u.id = t.user_id
WHERE t.user_id = %(id)s::bigint AND t.removed_at IS NULL AND u.state <> 'deactivated'
ORDER BY t.last_seen_at DESC, t.id;

-- name: push_token_remove
-- Takes out a device that the push provider no longer knows; one that is out already stays as it is.
UPDATE app.push_tokens SET removed_at = greatest(clock_timestamp(), created_at), removed_reason = %(reason)s::text
WHERE token = %(token)s::text AND removed_at IS NULL;
