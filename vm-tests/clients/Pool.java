// Readers behind a pool of JDBC connections that validates a connection before it lends it.
//
//     java Pool.java POOL HOST PORT USER PASSWORD CLIENTS THINK_MS DWELL_MS TLS
//
// POOL is hikari or dbcp2. Each client borrows a connection, reads twice in one transaction, commits, and gives it
// back, until standard input ends. Every transaction and every error is a JSON line; times are seconds of the
// monotonic clock.

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import javax.sql.DataSource;
import org.apache.commons.dbcp2.BasicDataSource;

public class Pool {
    static volatile boolean over = false;

    /** Where in its transaction a client is. */
    static class Place {
        String phase = "connect";
        double began = -1;
    }

    static double now() {
        return System.nanoTime() / 1e9;
    }

    static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** The vocabulary of the lab's clients. */
    static String kind(SQLException error) {
        String text = texts(error);
        if (text.contains("refused")) {
            return "\"refused\"";
        }
        if (text.contains("timed out") || text.contains("Timeout")) {
            return "\"timeout\"";
        }
        String state = error.getSQLState();
        if (state == null || state.startsWith("08") || error.getErrorCode() < 1000) {
            return "\"lost\"";
        }
        return "{\"server\":" + error.getErrorCode() + "}";
    }

    static String texts(Throwable error) {
        StringBuilder all = new StringBuilder();
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            all.append(cause.getClass().getSimpleName()).append(": ").append(cause.getMessage()).append("; ");
        }
        return all.toString();
    }

    static void transaction(DataSource pool, int client, int dwell, Place place) throws SQLException, InterruptedException {
        place.phase = "connect";
        place.began = -1;
        try (Connection connection = pool.getConnection(); Statement statement = connection.createStatement()) {
            // Without autocommit the first statement begins the transaction: there is no BEGIN to send.
            place.phase = "begin";
            statement.executeQuery("SELECT amount FROM app.balance WHERE account = " + client % 16).close();
            place.phase = "inside";
            place.began = now();
            Thread.sleep(dwell);
            statement.executeQuery("SELECT COUNT(*) FROM app.balance").close();
            place.phase = "commit";
            connection.commit();
            // Giving it back is the pool's business; what fails there is not the transaction.
            place.phase = "begin";
            place.began = -1;
        }
    }

    static void work(DataSource pool, int client, int think, int dwell) {
        Place place = new Place();
        while (!over) {
            double start = now();
            try {
                try {
                    transaction(pool, client, dwell, place);
                } catch (SQLException error) {
                    String text = texts(error).replaceAll("[\"\\\\\\p{Cntrl}]", " ");
                    String began = place.began < 0 ? "null" : String.format(Locale.ROOT, "%.6f", place.began);
                    say(String.format(
                            Locale.ROOT,
                            "{\"event\":\"error\",\"client\":%d,\"t\":%.6f,\"kind\":%s,\"phase\":\"%s\",\"began\":%s,\"text\":\"%s\"}",
                            client, now(), kind(error), place.phase, began, text.substring(0, Math.min(200, text.length()))));
                    Thread.sleep(20);
                    continue;
                }
                double end = now();
                say(String.format(
                        Locale.ROOT, "{\"event\":\"ok\",\"client\":%d,\"t\":%.6f,\"took\":%.6f}", client, end, end - start));
                Thread.sleep(think);
            } catch (InterruptedException error) {
                return;
            }
        }
    }

    static DataSource pool(String kind, String url, String user, String password, int size) {
        if (kind.equals("hikari")) {
            // Otherwise it trusts a connection that was used in the last half second.
            System.setProperty("com.zaxxer.hikari.aliveBypassWindowMs", "0");
            HikariConfig config = new HikariConfig();
            config.setJdbcUrl(url);
            config.setUsername(user);
            config.setPassword(password);
            config.setMaximumPoolSize(size);
            config.setAutoCommit(false);
            config.setConnectionTimeout(10000);
            return new HikariDataSource(config);
        }
        BasicDataSource pool = new BasicDataSource();
        pool.setDriverClassName("org.mariadb.jdbc.Driver");
        pool.setUrl(url);
        pool.setUsername(user);
        pool.setPassword(password);
        pool.setMaxTotal(size);
        pool.setMaxIdle(size);
        pool.setDefaultAutoCommit(false);
        pool.setTestOnBorrow(true);
        pool.setMaxWaitMillis(10000);
        return pool;
    }

    public static void main(String[] words) throws Exception {
        String tls = words[8].equals("tls") ? "&useSsl=true&trustServerCertificate=true" : "";
        String url = "jdbc:mariadb://" + words[1] + ":" + words[2] + "/app?connectTimeout=10000&socketTimeout=20000" + tls;
        int clients = Integer.parseInt(words[5]);
        int think = Integer.parseInt(words[6]);
        int dwell = Integer.parseInt(words[7]);
        DataSource pool = pool(words[0], url, words[3], words[4], clients);
        say(String.format(Locale.ROOT, "{\"event\":\"start\",\"t\":%.6f}", now()));
        List<Thread> threads = new ArrayList<>();
        for (int client = 0; client < clients; client++) {
            int number = client;
            Thread thread = new Thread(() -> work(pool, number, think, dwell));
            thread.start();
            threads.add(thread);
        }
        while (System.in.read() >= 0) {}
        over = true;
        for (Thread thread : threads) {
            thread.join();
        }
        System.exit(0);
    }
}
