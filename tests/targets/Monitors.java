// Three threads that do nothing but hold a monitor by turns, so that two of them wait for it at any
// time; two that hand a condition to and fro below it; one that parks.
public class Monitors {
    static final Object lock = new Object(), table = new Object();
    static boolean ball;

    static void hold() throws InterruptedException {
        synchronized (lock) {
            Thread.sleep(5);
        }
    }

    static void play(boolean mine) throws InterruptedException {
        synchronized (table) {
            while (ball != mine)
                table.wait();
            ball = !mine;
            table.notify();
        }
        Thread.sleep(2);
    }

    interface Step {
        void run() throws InterruptedException;
    }

    static void forEver(String name, Step step) {
        new Thread(() -> {
            try {
                while (true)
                    step.run();
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        }, name).start();
    }

    public static void main(String[] args) {
        for (int i = 0; i < 3; i++)
            forEver("holder-" + i, Monitors::hold);
        forEver("player", () -> play(true));
        forEver("other player", () -> play(false));
        forEver("parker", () -> java.util.concurrent.locks.LockSupport.parkNanos(3_000_000));
    }
}
